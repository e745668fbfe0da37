"""What became of an op. The first recorded outcome stands."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum

import numpy as np
from numpy.typing import NDArray

from tinsmith.domain.addresses import CheckpointAddress
from tinsmith.domain.matrix import Matrix


class StopReason(StrEnum):
    STOP = "stop"
    LENGTH = "length"


@dataclass(frozen=True, slots=True)
class RunCreated:
    run_id: str


@dataclass(frozen=True, slots=True, eq=False)
class ForwardBackwardDone:
    logprobs: tuple[NDArray[np.float32], ...]
    """One per datum, in the shape of its target_tokens."""
    metrics: Mapping[str, float]
    """Names read `name:reduction`; always holds `loss:sum`."""


@dataclass(frozen=True, slots=True)
class StepDone:
    metrics: Mapping[str, float]


@dataclass(frozen=True, slots=True)
class Saved:
    address: CheckpointAddress
    sampler_id: str | None = None
    """Set for the unnamed save, which is answered with a sampler instead of an address."""


@dataclass(frozen=True, slots=True)
class Loaded:
    run_id: str
    address: CheckpointAddress


@dataclass(frozen=True, slots=True)
class Released:
    run_id: str


@dataclass(frozen=True, slots=True, eq=False)
class TopK:
    """The k likeliest tokens per position, both [length, k]; a row that was not computed is
    filled with token 0 and logprob -99999.0."""

    token_ids: NDArray[np.int32]
    logprobs: NDArray[np.float32]


@dataclass(frozen=True, slots=True, eq=False)
class AltTokens:
    """Draws that are independent of each other, both [len(prompt) - 1, k]: row i might have stood
    at prompt position i + 1."""

    token_ids: NDArray[np.int32]
    logprobs: NDArray[np.float32]
    """Under the model's own distribution, whatever the temperature of the draw."""


@dataclass(frozen=True, slots=True, eq=False)
class SampledSequence:
    tokens: NDArray[np.int32]
    """The stopping token included."""
    logprobs: NDArray[np.float32]
    """Under the model's own distribution (temperature 1, no truncation), shape of tokens."""
    stop_reason: StopReason
    topk: TopK | None = None


@dataclass(frozen=True, slots=True, eq=False)
class Sampled:
    sequences: tuple[SampledSequence, ...]
    prompt_logprobs: NDArray[np.float32] | None = None
    """[len(prompt)]; NaN at position 0 and where it was not asked for."""
    topk_prompt_logprobs: TopK | None = None
    prompt_cache_hit_tokens: int = 0
    target_prompt_logprobs: Matrix | None = None
    """float32, in the shape and layout of what was asked for; 0.0 where nothing was."""
    prompt_alt_tokens: AltTokens | None = None


Result = RunCreated | ForwardBackwardDone | StepDone | Saved | Loaded | Released | Sampled


class FailureCategory(StrEnum):
    USER = "user"
    SERVER = "server"


@dataclass(frozen=True, slots=True, eq=False)
class Succeeded:
    result: Result


@dataclass(frozen=True, slots=True)
class Failed:
    category: FailureCategory
    message: str


Outcome = Succeeded | Failed
