"""What forward_backward and optim_step must look like, as far as it can be told without tensors.

The front refuses with these functions what it takes in, and the engine what it executes.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from tinsmith.domain.datum import TARGETS, Datum
from tinsmith.domain.errors import InvalidInputError
from tinsmith.domain.model_limits import (
    ModelLimits,
    check_sequence,
    check_token_ids,
    first_place,
    shown_place,
)
from tinsmith.domain.ops import AdamParams, ForwardBackward

_ADAM_BOUNDS = {
    # Far above any use; within them nothing overflows before it is checked.
    "learning_rate": 1e6,
    "beta1": 1.0,
    "beta2": 1.0,
    "eps": 1e6,
    "weight_decay": 1e6,
    "grad_clip_norm": math.inf,
}


class SettingRule(Protocol):
    """Bounds of a setting; both are allowed values."""

    @property
    def low(self) -> float: ...
    @property
    def high(self) -> float: ...


class LossRule(Protocol):
    """What one loss wants to be given; tinsmith.nn.losses says it beside the formulas."""

    @property
    def name(self) -> str: ...
    @property
    def inputs(self) -> frozenset[str]: ...
    @property
    def forward_optional(self) -> frozenset[str]: ...
    @property
    def masks(self) -> frozenset[str]: ...
    @property
    def has_soft_targets(self) -> bool: ...
    @property
    def settings(self) -> Mapping[str, SettingRule]: ...


def check_forward_backward(
    op: ForwardBackward, limits: ModelLimits, losses: Mapping[str, LossRule]
) -> None:
    """Raises InvalidInputError for the first thing that is wrong, naming value and place."""
    rule = losses.get(op.loss_fn)
    if rule is None:
        raise InvalidInputError(
            f"loss_fn {op.loss_fn!r} is not supported; supported: {', '.join(sorted(losses))}"
        )
    _check_config(op.loss_fn_config, rule)
    if not op.data:
        raise InvalidInputError("the batch is empty; send at least one datum")
    # The SDK's custom losses ask for a forward pass without weights.
    required = rule.inputs - rule.forward_optional if op.forward_only else rule.inputs
    for number, datum in enumerate(op.data):
        place = f"data[{number}]"
        check_sequence(datum.tokens, f"{place}.model_input", limits)
        _check_inputs(datum, place, rule, required, limits)


def check_adam(adam: AdamParams) -> None:
    """Raises InvalidInputError unless torch.optim.AdamW could step with these."""
    for name, bound in _ADAM_BOUNDS.items():
        value = getattr(adam, name)
        if not 0 <= value < bound:
            allowed = "0 or more and finite" if bound == math.inf else f"0 to below {bound:g}"
            raise InvalidInputError(f"{name} {value!r} is out of range: {allowed}")


def _check_config(config: Mapping[str, float | str], rule: LossRule) -> None:
    for name, value in config.items():
        setting = rule.settings.get(name)
        if setting is None:
            allowed = ", ".join(sorted(rule.settings)) or "none"
            raise InvalidInputError(
                f"loss_fn_config of {rule.name!r} has no setting {name!r}; its settings: {allowed}"
            )
        # NaN is outside too.
        if isinstance(value, str) or not setting.low <= value <= setting.high:
            raise InvalidInputError(
                f"loss_fn_config[{name!r}] of {rule.name!r} is {value!r}; expected a number from "
                f"{setting.low:g} to {setting.high:g}"
            )


def _check_inputs(
    datum: Datum, place: str, rule: LossRule, required: frozenset[str], limits: ModelLimits
) -> None:
    present, known = datum.loss_fn_inputs.keys(), {TARGETS, *rule.inputs}
    if missing := {TARGETS, *required} - present:
        raise InvalidInputError(
            f"{place}.loss_fn_inputs lacks {', '.join(sorted(missing))}; {rule.name!r} needs "
            f"{', '.join(sorted({TARGETS, *required}))}"
        )
    if unknown := present - known:
        raise InvalidInputError(
            f"{place}.loss_fn_inputs has {', '.join(sorted(unknown))}, which {rule.name!r} does "
            f"not use; it takes {', '.join(sorted(known))}"
        )
    targets, where = datum.loss_fn_inputs[TARGETS], f"{place}.loss_fn_inputs[{TARGETS!r}]"
    num_tokens = datum.tokens.shape[0]
    if targets.ndim not in (1, 2) or targets.shape[0] != num_tokens or targets.size == 0:
        raise InvalidInputError(
            f"{where} has shape {list(targets.shape)}; expected [{num_tokens}] or "
            f"[{num_tokens}, K], as model_input has {num_tokens} tokens"
        )
    if targets.ndim == 2 and not rule.has_soft_targets:
        raise InvalidInputError(
            f"{where} has shape {list(targets.shape)}; {rule.name!r} is defined for one target per "
            f"position, shape [{num_tokens}]"
        )
    if not np.issubdtype(targets.dtype, np.integer):
        raise InvalidInputError(f"{where} has dtype {targets.dtype}; expected int64")
    check_token_ids(targets, where, limits.vocab_size)
    for name in sorted(present - {TARGETS}):
        values, where = datum.loss_fn_inputs[name], f"{place}.loss_fn_inputs[{name!r}]"
        _check_values(values, where, targets.shape)
        if name in rule.masks:
            _check_mask(values, where)


def _check_values(values: NDArray[np.generic], where: str, shape: tuple[int, ...]) -> None:
    if values.shape != shape:
        raise InvalidInputError(
            f"{where} has shape {list(values.shape)}; expected {list(shape)}, the shape of "
            f"{TARGETS}"
        )
    with np.errstate(over="ignore"):  # what float32 cannot hold becomes infinite, and is named
        is_bad = ~np.isfinite(values.astype(np.float32))
    if is_bad.any():
        first = first_place(is_bad)
        raise InvalidInputError(
            f"{where}{shown_place(first)} is {values[first]}; expected a finite float32 number"
        )


def _check_mask(values: NDArray[np.generic], where: str) -> None:
    is_bad = ~np.isin(values, (0, 1))
    if is_bad.any():
        first = first_place(is_bad)
        raise InvalidInputError(
            f"{where}{shown_place(first)} is {values[first]}; expected 0 or 1, as it is a mask"
        )
