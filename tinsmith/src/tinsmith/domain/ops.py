"""Requests that change or use a model: what the log holds and the engine executes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import get_args

import numpy as np
from numpy.typing import NDArray

from tinsmith.domain.addresses import CheckpointAddress
from tinsmith.domain.datum import Datum
from tinsmith.domain.matrix import Matrix

LORA_ALPHA = 32.0
"""One alpha for every rank: the update's scale is alpha / rank, so that the best learning rate
does not depend on the rank. Exports carry it."""


@dataclass(frozen=True, slots=True)
class LoraConfig:
    rank: int
    seed: int
    """Drawn at intake when the client gave none, so that a replay starts from the same A."""
    train_attn: bool = True
    train_mlp: bool = True
    train_unembed: bool = True


@dataclass(frozen=True, slots=True)
class AdamParams:
    """AdamW as torch.optim.AdamW defines it (Loshchilov and Hutter, 2019, algorithm 2)."""

    learning_rate: float = 1e-4
    beta1: float = 0.9
    beta2: float = 0.95
    eps: float = 1e-12
    weight_decay: float = 0.0
    grad_clip_norm: float = 0.0
    """Largest global gradient norm; 0 means no clipping."""


@dataclass(frozen=True, slots=True)
class SamplingParams:
    max_tokens: int | None = None
    """None: as many as the context has room for."""
    seed: int = 0
    """Drawn at intake when the client gave none."""
    stop_tokens: tuple[int, ...] = ()
    stop_strings: tuple[str, ...] = ()
    stop_at_eos: bool = True
    """The default when the client names no stop; an empty list of stops switches it off."""
    temperature: float = 1.0
    """0 is greedy."""
    top_k: int = -1
    """-1: no limit."""
    top_p: float = 1.0


@dataclass(frozen=True, slots=True)
class CreateRun:
    base_model: str
    lora: LoraConfig
    user_metadata: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class CreateRunFromState:
    """A new run that starts from a training checkpoint; LoRA settings come from there."""

    base_model: str
    source: CheckpointAddress
    with_optimizer: bool
    user_metadata: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, eq=False)
class ForwardBackward:
    data: tuple[Datum, ...]
    loss_fn: str
    loss_fn_config: Mapping[str, float | str] = field(default_factory=dict)
    forward_only: bool = False


@dataclass(frozen=True, slots=True)
class OptimStep:
    adam: AdamParams


@dataclass(frozen=True, slots=True)
class SaveState:
    """Adapter and optimizer, to train on from."""

    address: CheckpointAddress
    overwrite: bool = False
    ttl_s: int | None = None
    user_metadata: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class SaveForSampler:
    """The adapter alone, frozen, to sample from. `sampler_id` is set for the unnamed form, whose
    checkpoint is not listed."""

    address: CheckpointAddress
    sampler_id: str | None = None
    ttl_s: int | None = None
    user_metadata: Mapping[str, str] = field(default_factory=dict)
    overwrite: bool = False
    """So that samplers which are there already go over to these weights."""


@dataclass(frozen=True, slots=True)
class SaveExternal:
    """The adapter alone, for download."""

    address: CheckpointAddress
    ttl_s: int | None = None
    age_recipients: tuple[str, ...] = ()
    """Public keys that every file is encrypted to; none: files are stored as they are."""


@dataclass(frozen=True, slots=True)
class LoadState:
    """Replace an existing run's adapter (and optimizer) by a checkpoint's."""

    source: CheckpointAddress
    with_optimizer: bool


@dataclass(frozen=True, slots=True)
class Release:
    """The run's session is over: forget what the device holds of it."""


@dataclass(frozen=True, slots=True, eq=False)
class Sample:
    """Generate from a sampler, and score the prompt if asked."""

    prompt: NDArray[np.int32]
    params: SamplingParams
    num_samples: int = 1
    prompt_logprobs: bool = False
    prompt_logprobs_last_n: int | None = None
    """Score only the prompt's last n tokens."""
    topk_prompt_logprobs: int = 0
    topk_sample_logprobs: int = 0
    stream: str | None = None
    """The name under which its tokens are told as they come; None: they are not."""
    target_prompt_logprobs: Matrix | None = None
    """int64 [len(prompt) - 1, K]: tokens to score at prompt position row + 1; -1 asks for none."""
    prompt_alt_tokens_k: int = 0
    """Tokens to draw, at the temperature, for each prompt position after the first."""


RunOp = (
    CreateRun
    | CreateRunFromState
    | ForwardBackward
    | OptimStep
    | SaveState
    | SaveForSampler
    | SaveExternal
    | LoadState
    | Release
)
Op = RunOp | Sample


def kind_of(op: Op) -> str:
    """The op's name in logs, tables and error messages: `forward_backward`, `optim_step`, ..."""
    return _kind(type(op))


def _kind(cls: type) -> str:
    return "".join(f"_{c.lower()}" if c.isupper() else c for c in cls.__name__).lstrip("_")


RUN_OP_KINDS = tuple(_kind(cls) for cls in get_args(RunOp))
"""What `kind_of` says of the ops of runs."""
