"""What completions and chat completions ask for alike: how to sample and how to answer."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

from tinsmith.api.wire.fields import Fields, is_storable
from tinsmith.domain.errors import InvalidInputError
from tinsmith.domain.ops import SamplingParams

MAX_TOP = 20
FIELDS = frozenset(
    {
        "model",
        "max_tokens",
        "n",
        "seed",
        "stop",
        "stream",
        "stream_options",
        "temperature",
        "top_k",
        "top_p",
    }
)
WITHOUT_EFFECT = frozenset(
    {
        "metadata",
        "prediction",
        "prompt_cache_key",
        "prompt_cache_retention",
        "safety_identifier",
        "service_tier",
        "store",
        "user",
    }
)
"""Book-keeping and hints: what they say does not change an answer."""
NEUTRAL: Mapping[str, tuple[Any, ...]] = {
    "frequency_penalty": (0,),
    "presence_penalty": (0,),
    "logit_bias": ({},),
    "parallel_tool_calls": (True,),
    "modalities": (["text"],),
    "response_format": ({"type": "text"},),
    "functions": ([],),
    "suffix": ("",),
}
"""Not served; these are the values that ask for nothing."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    model: str
    params: SamplingParams
    """Without the seed."""
    seed: int | None
    num_samples: int
    num_top: int | None
    """How many likeliest tokens to report beside each; None: no logprobs at all."""
    is_streamed: bool
    has_usage_at_end: bool
    """Of a stream; other answers always say what was used."""


def check_names(fields: Fields, served: Collection[str]) -> None:
    """Raises InvalidInputError for a field that would change the answer and is not served."""
    for name in fields.names():
        if not fields.has(name) or name in served or name in FIELDS or name in WITHOUT_EFFECT:
            continue
        if name not in NEUTRAL:
            raise InvalidInputError(
                f"{name[:80]} is not supported by this server; leave it out. Supported are "
                + ", ".join(sorted({*served, *FIELDS}))
            )
        if fields.raw(name) not in NEUTRAL[name]:
            raise InvalidInputError(
                f"{name} is not supported by this server; leave it out, or send "
                f"{NEUTRAL[name][0]!r}, which asks for nothing"
            )


def read_asked(fields: Fields, *, max_tokens: int | None, num_top: int | None) -> Asked:
    """
    Args:
        max_tokens, num_top: as the call at hand spells them.

    Raises:
        InvalidInputError: a value of the wrong type; ranges are checked later, with the model.
    """
    is_streamed = fields.flag_or("stream", False)
    options = fields.object_or("stream_options", None)
    if options is not None:
        if not is_streamed:
            raise InvalidInputError("stream_options are for streams: send stream true with them")
        # Padding against guesses by length: we send none, whatever is said of it.
        unknown = set(options.names()) - {"include_usage", "include_obfuscation"}
        if unknown:
            raise InvalidInputError(f"stream_options has no {min(unknown)[:80]!r}")
    return Asked(
        model=fields.text("model"),
        params=SamplingParams(
            max_tokens=max_tokens,
            stop_strings=_read_stops(fields),
            temperature=fields.number_or("temperature", 1.0),
            top_k=fields.integer_or("top_k", -1, low=-1),
            top_p=fields.number_or("top_p", 1.0),
        ),
        seed=fields.integer_or("seed", None, low=-(2**63)),
        num_samples=fields.integer_or("n", 1, low=1),
        num_top=num_top,
        is_streamed=is_streamed,
        has_usage_at_end=options is not None and options.flag_or("include_usage", False),
    )


def _read_stops(fields: Fields) -> tuple[str, ...]:
    stop = fields.raw("stop")
    stops = [] if stop is None else stop if isinstance(stop, list) else [stop]
    if not all(isinstance(item, str) and item and is_storable(item) for item in stops):
        raise fields.refuse("stop", "a non-empty string or a list of them")
    return tuple(stops)
