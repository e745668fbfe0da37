"""Sampling calls <-> ops and their outcomes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeGuard

import numpy as np
from numpy.typing import NDArray

from tinsmith.api.wire import tinsmith_wire_pb2 as pb
from tinsmith.api.wire.fields import Fields, is_storable
from tinsmith.api.wire.matrices import read_id_matrix, write_matrix
from tinsmith.domain.errors import InvalidInputError
from tinsmith.domain.matrix import Matrix
from tinsmith.domain.ops import Sample, SamplingParams
from tinsmith.domain.outcomes import Sampled, SampledSequence, StopReason, TopK

INT32_MAX = 2**31 - 1


@dataclass(frozen=True, slots=True)
class SampleRequest:
    sampler_id: str
    seq_id: int
    sample: Sample
    seed: int | None


def read_sample(fields: Fields) -> SampleRequest:
    """Raises InvalidInputError for what cannot be read, and for images.

    Ranges that depend on the model or on settings are not checked here.
    """
    if not fields.has("sampling_session_id"):
        raise InvalidInputError(
            "sampling_session_id is missing; create a sampling session and sample from it "
            "(sampling by base_model or model_path alone is not supported by this server)"
        )
    sampler_id = fields.text("sampling_session_id")
    seq_id = fields.integer("seq_id")
    params = fields.object_or("sampling_params", Fields({}, "sampling_params."))
    stop_at_eos, stop_tokens, stop_strings = _read_stop(params)
    sample = Sample(
        prompt=_read_prompt(fields),
        params=SamplingParams(
            max_tokens=params.integer_or("max_tokens", None, low=-(2**63)),
            stop_tokens=stop_tokens,
            stop_strings=stop_strings,
            stop_at_eos=stop_at_eos,
            temperature=params.number_or("temperature", 1.0),
            top_k=params.integer_or("top_k", -1, low=-(2**63)),
            top_p=params.number_or("top_p", 1.0),
        ),
        num_samples=fields.integer_or("num_samples", 1, low=-(2**63)),
        prompt_logprobs=fields.flag_or("prompt_logprobs", False),
        prompt_logprobs_last_n=fields.integer_or("prompt_logprobs_last_n", None, low=-(2**63)),
        topk_prompt_logprobs=fields.integer_or("topk_prompt_logprobs", 0, low=-(2**63)),
        topk_sample_logprobs=fields.integer_or("topk_sample_logprobs", 0, low=-(2**63)),
        target_prompt_logprobs=read_id_matrix(fields, "target_prompt_logprobs"),
        prompt_alt_tokens_k=fields.integer_or("prompt_alt_tokens_k", 0, low=-(2**63)),
    )
    return SampleRequest(
        sampler_id, seq_id, sample, seed=params.integer_or("seed", None, low=-(2**63))
    )


def _read_prompt(fields: Fields) -> NDArray[np.int32]:
    prompt = fields.object_or("prompt", None)
    if prompt is None:
        raise fields.refuse("prompt", "an object with chunks")
    tokens: list[int] = []
    for index, chunk in enumerate(prompt.items_or("chunks", [])):
        form = chunk.get("type") if isinstance(chunk, dict) else None
        if form != "encoded_text":
            raise InvalidInputError(
                f"prompt chunk {index} is of type {str(form)[:40]!r}, which this server does not "
                "support; prompts may hold encoded_text only"
            )
        part = chunk.get("tokens")
        if not _are_int32(part):
            raise InvalidInputError(
                f"prompt chunk {index}: tokens must be a list of integers from 0 to {INT32_MAX}"
            )
        tokens.extend(part)
    return np.asarray(tokens, dtype=np.int32)


def _read_stop(params: Fields) -> tuple[bool, tuple[int, ...], tuple[str, ...]]:
    """Whether the end-of-text token stops, and which tokens and strings do.

    Without stops just the end of text does; an empty list switches even that off; named stops
    act beside it.
    """
    stop = params.raw("stop")
    if stop is None:
        return True, (), ()
    if stop == []:
        return False, (), ()
    if _are_int32(stop):
        return True, tuple(stop), ()
    strings = stop if isinstance(stop, list) else [stop]
    if all(isinstance(item, str) and item and is_storable(item) for item in strings):
        return True, (), tuple(strings)
    raise params.refuse("stop", "a string, a list of non-empty strings, or a list of token ids")


def _are_int32(items: object) -> TypeGuard[list[int]]:
    return isinstance(items, list) and all(
        type(item) is int and 0 <= item <= INT32_MAX for item in items
    )


def write_sample(sampled: Sampled) -> bytes:
    """SampleResponse."""
    response = pb.SampleResponse(
        sequences=[_write_sequence(sequence) for sequence in sampled.sequences],
        prompt_cache_hit_tokens=sampled.prompt_cache_hit_tokens,
    )
    if sampled.prompt_logprobs is not None:
        response.prompt_logprobs = _float_blob(sampled.prompt_logprobs)
    if sampled.topk_prompt_logprobs is not None:
        response.topk_prompt_logprobs.CopyFrom(_write_topk(sampled.topk_prompt_logprobs))
    if sampled.target_prompt_logprobs is not None:
        response.target_prompt_logprobs.CopyFrom(write_matrix(sampled.target_prompt_logprobs))
    if (alternatives := sampled.prompt_alt_tokens) is not None:
        for tensor, values in (
            (response.prompt_alt_tokens.tokens, alternatives.token_ids),
            (response.prompt_alt_tokens.logprobs, alternatives.logprobs),
        ):
            tensor.CopyFrom(write_matrix(Matrix(values.shape, values.ravel())))
    return response.SerializeToString()


def _write_sequence(sequence: SampledSequence) -> pb.SampledSequence:
    message = pb.SampledSequence(
        stop_reason=(
            pb.STOP_REASON_STOP
            if sequence.stop_reason is StopReason.STOP
            else pb.STOP_REASON_LENGTH
        ),
        tokens=_int_blob(sequence.tokens),
        logprobs=_float_blob(sequence.logprobs),
    )
    if sequence.topk is not None:
        message.topk_sampled_logprobs.CopyFrom(_write_topk(sequence.topk))
    return message


def _write_topk(topk: TopK) -> pb.TopkLogprobs:
    length, k = topk.token_ids.shape
    return pb.TopkLogprobs(
        token_ids=_int_blob(topk.token_ids),
        logprobs=_float_blob(topk.logprobs),
        k=k,
        length=length,
    )


def _int_blob(array: NDArray[np.int32]) -> bytes:
    return np.ascontiguousarray(array, dtype="<i4").tobytes()


def _float_blob(array: NDArray[np.float32]) -> bytes:
    return np.ascontiguousarray(array, dtype="<f4").tobytes()
