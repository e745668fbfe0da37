"""What is wrong with a training op, as far as it can be told without tensors."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tinsmith.domain.addresses import CheckpointAddress, CheckpointKind
from tinsmith.domain.datum import Datum
from tinsmith.domain.errors import InvalidInputError
from tinsmith.domain.ops import (
    AdamParams,
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

MIN_TTL_S = 3600
MAX_TTL_S = 10 * 366 * 24 * 3600
MAX_METADATA_BYTES = 256 * 2**10
SMALLEST_EPS = 1e-37
"""The smallest power of ten that float32 holds as a normal number."""


@dataclass(frozen=True, slots=True)
class LossRule:
    """What one loss wants to be given. The formulas are the engine's."""

    name: str
    inputs: frozenset[str]
    """loss_fn_inputs that every datum must carry besides target_tokens."""
    config: frozenset[str] = frozenset()
    """Names that loss_fn_config may set."""


def check_training_op(op: RunOp, model: ServedModel, losses: Mapping[str, LossRule]) -> None:
    """Raises InvalidInputError that names the offending value and what is allowed."""
    match op:
        case ForwardBackward():
            check_forward_backward(op, model, losses)
        case OptimStep():
            check_adam(op.adam)
        case SaveState() | SaveForSampler():
            check_ttl(op.ttl_s)
            check_metadata(op.user_metadata)
        case SaveExternal():
            check_ttl(op.ttl_s)
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


def check_adam(adam: AdamParams) -> None:
    for name in ("learning_rate", "weight_decay", "grad_clip_norm"):
        value = getattr(adam, name)
        if not (math.isfinite(value) and value >= 0.0):
            raise InvalidInputError(f"{name} {value!r} is out of range: finite and at least 0")
    for name in ("beta1", "beta2"):
        value = getattr(adam, name)
        if not 0.0 <= value < 1.0:
            raise InvalidInputError(f"{name} {value!r} is out of range: at least 0 and below 1")
    if not (math.isfinite(adam.eps) and adam.eps >= SMALLEST_EPS):
        raise InvalidInputError(
            f"eps {adam.eps!r} is out of range: finite and at least {SMALLEST_EPS} "
            "(smaller ones are 0 in float32, and 0 divides by zero where a gradient is 0)"
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


def check_forward_backward(
    op: ForwardBackward, model: ServedModel, losses: Mapping[str, LossRule]
) -> None:
    rule = losses.get(op.loss_fn)
    if rule is None:
        raise InvalidInputError(
            f"loss {op.loss_fn!r} is not supported; supported: {', '.join(losses)}"
        )
    for name, value in op.loss_fn_config.items():
        if name not in rule.config:
            allowed = ", ".join(sorted(rule.config)) or "nothing"
            raise InvalidInputError(
                f"loss_fn_config of {rule.name} has {name!r}; it may set: {allowed}"
            )
        if not isinstance(value, (int, float)) or not math.isfinite(value):
            raise InvalidInputError(f"loss_fn_config {name} is {value!r}; it must be finite")
    if not op.data:
        raise InvalidInputError("the batch is empty: send at least one datum")
    for index, datum in enumerate(op.data):
        try:
            _check_datum(datum, rule, model)
        except InvalidInputError as error:
            raise InvalidInputError(f"datum {index}: {error}") from None


def check_token_ids(name: str, ids: NDArray[np.generic], vocab_size: int) -> None:
    bad = np.flatnonzero((ids < 0) | (ids >= vocab_size))  # type: ignore[operator]
    if bad.size:
        at = np.unravel_index(bad[0], ids.shape)
        where = ", ".join(str(int(i)) for i in at)
        hint = " (there is no mask token: give the position weight 0)" if ids[at] == -100 else ""
        raise InvalidInputError(
            f"{name}[{where}] is {int(ids[at])}: token ids of this model are 0 to "
            f"{vocab_size - 1}{hint}"
        )


def _check_datum(datum: Datum, rule: LossRule, model: ServedModel) -> None:
    num_tokens = datum.tokens.shape[0]
    if num_tokens == 0:
        raise InvalidInputError("model_input has no tokens")
    if num_tokens > model.max_context:
        raise InvalidInputError(
            f"model_input has {num_tokens} tokens; {model.name} takes at most {model.max_context}"
        )
    check_token_ids("model_input", datum.tokens, model.vocab_size)
    wanted = {"target_tokens", *rule.inputs}
    missing, unknown = wanted - datum.loss_fn_inputs.keys(), datum.loss_fn_inputs.keys() - wanted
    if missing:
        raise InvalidInputError(
            f"loss_fn_inputs lacks {', '.join(sorted(missing))}, which {rule.name} needs"
        )
    if unknown:
        raise InvalidInputError(
            f"loss_fn_inputs has {', '.join(sorted(unknown))}, which {rule.name} does not use; "
            f"it takes {', '.join(sorted(wanted))}"
        )
    target = datum.loss_fn_inputs["target_tokens"]
    if target.ndim not in (1, 2) or target.shape[0] != num_tokens or target.size == 0:
        raise InvalidInputError(
            f"target_tokens has shape {list(target.shape)}; model_input has {num_tokens} tokens, "
            f"so it must be [{num_tokens}] or [{num_tokens}, K]"
        )
    if not np.issubdtype(target.dtype, np.integer):
        raise InvalidInputError(f"target_tokens is {target.dtype}; token ids are int64")
    check_token_ids("target_tokens", target, model.vocab_size)
    for name in sorted(rule.inputs):
        _check_values(name, datum.loss_fn_inputs[name], target.shape)


def _check_values(name: str, values: NDArray[np.generic], shape: tuple[int, ...]) -> None:
    if values.shape != shape:
        raise InvalidInputError(
            f"{name} has shape {list(values.shape)}; target_tokens has {list(shape)}, "
            "and they must be equal"
        )
    bad = np.argwhere(~np.isfinite(values))  # type: ignore[call-overload]
    if bad.size:
        where = ", ".join(str(int(i)) for i in bad[0])
        raise InvalidInputError(
            f"{name}[{where}] is {values[tuple(bad[0])]}; every value must be finite"
        )
