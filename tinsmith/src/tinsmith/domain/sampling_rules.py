"""What a sample request must look like, as far as it can be told without tensors.

The front refuses with these functions what it takes in, and the engine what it executes.
"""

from __future__ import annotations

import math

import numpy as np

from tinsmith.domain.errors import InvalidInputError
from tinsmith.domain.matrix import NO_TARGET, Matrix
from tinsmith.domain.model_limits import ModelLimits, check_sequence, check_token_ids
from tinsmith.domain.ops import Sample, SamplingParams

MAX_STOPS = 64
MAX_TOP_LOGPROBS = 128


def check_sample(sample: Sample, limits: ModelLimits, max_num_samples: int | None = None) -> None:
    """Raises InvalidInputError that names the offending value and what is allowed.

    The prompt may fill the context. An answer ends where the context does, whatever max_tokens
    says, with stop reason `length`.

    Args:
        max_num_samples: what the server grants one request; None: no bound.
    """
    if sample.prompt.size == 0:
        raise InvalidInputError("the prompt is empty; send at least one token")
    check_sequence(sample.prompt, "prompt", limits)
    if sample.num_samples < 1 or (
        max_num_samples is not None and sample.num_samples > max_num_samples
    ):
        allowed = "at least 1" if max_num_samples is None else f"1 to {max_num_samples}"
        raise InvalidInputError(f"num_samples {sample.num_samples} is out of range: {allowed}")
    last_n = sample.prompt_logprobs_last_n
    if last_n is not None and last_n < 1:
        raise InvalidInputError(f"prompt_logprobs_last_n {last_n} is out of range: at least 1")
    most = min(MAX_TOP_LOGPROBS, limits.vocab_size)
    for name in ("topk_prompt_logprobs", "topk_sample_logprobs", "prompt_alt_tokens_k"):
        value = getattr(sample, name)
        if not 0 <= value <= most:
            raise InvalidInputError(f"{name} {value} is out of range: 0 to {most}")
    if sample.target_prompt_logprobs is not None:
        _check_targets(sample.target_prompt_logprobs, sample.prompt.size - 1, limits.vocab_size)
    _check_params(sample.params, limits.vocab_size)


def _check_targets(targets: Matrix, num_rows: int, vocab_size: int) -> None:
    if targets.shape[0] != num_rows:
        raise InvalidInputError(
            f"target_prompt_logprobs has {targets.shape[0]} rows; it needs {num_rows}, one for "
            "each prompt token but the first"
        )
    ids = targets.values.astype(np.int64)
    is_outside = (ids < NO_TARGET) | (ids >= vocab_size)
    if is_outside.any():
        first = int(is_outside.argmax())
        raise InvalidInputError(
            f"target_prompt_logprobs has token id {ids[first]} in row {targets.rows[first]}; the "
            f"model's vocabulary has ids 0 to {vocab_size - 1}, and {NO_TARGET} asks for none"
        )
    if (ids == NO_TARGET).all():
        raise InvalidInputError("target_prompt_logprobs names no token; leave it out")


def _check_params(params: SamplingParams, vocab_size: int) -> None:
    if params.max_tokens is not None and params.max_tokens < 1:
        raise InvalidInputError(f"max_tokens {params.max_tokens} is out of range: at least 1")
    if not (math.isfinite(params.temperature) and params.temperature >= 0.0):
        raise InvalidInputError(
            f"temperature {params.temperature!r} is out of range: finite and at least 0 "
            "(0 is greedy)"
        )
    if not 0.0 < params.top_p <= 1.0:
        raise InvalidInputError(f"top_p {params.top_p!r} is out of range: above 0, at most 1")
    if params.top_k != -1 and params.top_k < 1:
        raise InvalidInputError(
            f"top_k {params.top_k} is out of range: at least 1, or -1 for no limit"
        )
    num_stops = len(params.stop_tokens) + len(params.stop_strings)
    if num_stops > MAX_STOPS:
        raise InvalidInputError(f"{num_stops} stops were given; at most {MAX_STOPS} are watched")
    if "" in params.stop_strings:
        raise InvalidInputError("a stop string is empty; it would stop before the first token")
    check_token_ids(np.array(params.stop_tokens, dtype=np.int64), "stop", vocab_size)
