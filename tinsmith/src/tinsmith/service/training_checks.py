"""What is wrong with a training op or the creation of a run, as the front can tell."""

from __future__ import annotations

from collections.abc import Mapping

from tinsmith.checkpoints.encryption import check_recipients
from tinsmith.domain.addresses import CheckpointAddress, CheckpointKind
from tinsmith.domain.errors import InvalidInputError
from tinsmith.domain.ops import (
    ForwardBackward,
    LoadState,
    LoraConfig,
    OptimStep,
    RunOp,
    SaveExternal,
    SaveForSampler,
    SaveState,
)
from tinsmith.domain.records import ServedModel
from tinsmith.domain.training_rules import LossRule, check_adam, check_forward_backward

MIN_TTL_S = 3600
MAX_TTL_S = 10 * 366 * 24 * 3600
MAX_METADATA_BYTES = 256 * 2**10


def check_training_op(op: RunOp, model: ServedModel, losses: Mapping[str, LossRule]) -> None:
    """Raises InvalidInputError that names the offending value and what is allowed."""
    match op:
        case ForwardBackward():
            check_forward_backward(op, model.limits, losses)
        case OptimStep():
            check_adam(op.adam)
        case SaveState() | SaveForSampler():
            check_ttl(op.ttl_s)
            check_metadata(op.user_metadata)
        case SaveExternal():
            check_ttl(op.ttl_s)
            check_recipients(op.age_recipients)
        case LoadState():
            check_trainable(op.source)
        case _:
            raise InvalidInputError(f"{type(op).__name__} is not submitted to a running run")


def check_lora(lora: LoraConfig, max_rank: int) -> None:
    if not 1 <= lora.rank <= max_rank:
        raise InvalidInputError(f"LoRA rank {lora.rank} is out of range: use 1 to {max_rank}")
    if not (lora.train_attn or lora.train_mlp or lora.train_unembed):
        raise InvalidInputError(
            "train_attn, train_mlp and train_unembed are all false: nothing would be trained; "
            "set at least one"
        )


def check_trainable(source: CheckpointAddress) -> None:
    if source.kind is not CheckpointKind.TRAINING:
        raise InvalidInputError(
            f"{source} is no training checkpoint and cannot be trained from; use one saved by "
            "save_state (tinker://<run_id>/weights/<name>)"
        )


def check_ttl(ttl_s: int | None) -> None:
    if ttl_s is not None and not MIN_TTL_S <= ttl_s <= MAX_TTL_S:
        raise InvalidInputError(
            f"ttl_seconds {ttl_s} is out of range: {MIN_TTL_S} (an hour) to {MAX_TTL_S} "
            "(ten years), or none"
        )


def check_metadata(metadata: Mapping[str, str]) -> None:
    for key, value in metadata.items():
        if not isinstance(value, str):
            raise InvalidInputError(f"user_metadata[{key!r}] is {value!r}; values are strings")
    size = sum(len(key.encode()) + len(value.encode()) for key, value in metadata.items())
    if size > MAX_METADATA_BYTES:
        raise InvalidInputError(
            f"user_metadata has {size} bytes; at most {MAX_METADATA_BYTES} are kept"
        )
