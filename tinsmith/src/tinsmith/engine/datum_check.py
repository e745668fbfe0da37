"""What a forward_backward must look like before any of it touches the model."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from tinsmith.domain.datum import Datum
from tinsmith.domain.errors import InvalidInputError
from tinsmith.domain.ops import ForwardBackward
from tinsmith.nn.losses import LOSSES, Loss

TARGETS = "target_tokens"


def check_forward_backward(op: ForwardBackward, vocab_size: int, context_limit: int) -> None:
    """Raises InvalidInputError for the first thing that is wrong, naming value and place."""
    loss = loss_named(op.loss_fn)
    settings_of(op.loss_fn, loss, op.loss_fn_config)
    if not op.data:
        raise InvalidInputError("the batch is empty; send at least one datum")
    for number, datum in enumerate(op.data):
        place = f"data[{number}]"
        _check_datum(datum, place, op, loss)
        num_tokens = len(datum.tokens)
        if num_tokens > context_limit:
            raise InvalidInputError(
                f"{place} has {num_tokens} tokens; the model's context holds {context_limit}"
            )
        check_token_ids(datum.tokens, f"{place}.model_input", vocab_size)
        check_token_ids(
            datum.loss_fn_inputs[TARGETS], f"{place}.loss_fn_inputs[{TARGETS!r}]", vocab_size
        )


def loss_named(name: str) -> Loss:
    if name not in LOSSES:
        raise InvalidInputError(
            f"loss_fn {name!r} is not supported; supported: {', '.join(sorted(LOSSES))}"
        )
    return LOSSES[name]


def settings_of(name: str, loss: Loss, config: Mapping[str, float | str]) -> dict[str, float | str]:
    """The loss's settings with the client's values over the defaults."""
    for key, value in config.items():
        if key not in loss.settings:
            allowed = ", ".join(sorted(loss.settings)) or "none"
            raise InvalidInputError(
                f"loss_fn_config of {name!r} has no setting {key!r}; its settings: {allowed}"
            )
        if isinstance(value, str) or not np.isfinite(value):
            raise InvalidInputError(
                f"loss_fn_config[{key!r}] is {value!r}; expected a finite number"
            )
    return {**loss.settings, **config}


def check_token_ids(ids: NDArray[np.generic], place: str, vocab_size: int) -> None:
    outside = (ids < 0) | (ids >= vocab_size)  # type: ignore[operator]
    if outside.any():
        position = tuple(int(i) for i in np.argwhere(outside)[0])
        shown = ", ".join(str(i) for i in position)
        raise InvalidInputError(
            f"{place}[{shown}] is token id {int(ids[position])}; the model's vocabulary has ids "
            f"0 to {vocab_size - 1}"
        )


def _check_datum(datum: Datum, place: str, op: ForwardBackward, loss: Loss) -> None:
    num_tokens = len(datum.tokens)
    if datum.tokens.ndim != 1 or num_tokens == 0:
        raise InvalidInputError(
            f"{place}.model_input has shape {list(datum.tokens.shape)}; expected at least one token"
        )
    present, needed = set(datum.loss_fn_inputs), {TARGETS, *loss.inputs}
    # A forward pass trains nothing, and the SDK's custom losses ask for one without weights.
    missing = ({TARGETS} if op.forward_only else needed) - present
    if missing:
        raise InvalidInputError(
            f"{place} lacks loss_fn_inputs {sorted(missing)}; {op.loss_fn!r} needs {sorted(needed)}"
        )
    if present - needed:
        raise InvalidInputError(
            f"{place} has loss_fn_inputs {sorted(present - needed)}, which {op.loss_fn!r} does not "
            f"take; it takes {sorted(needed)}"
        )
    targets = datum.loss_fn_inputs[TARGETS]
    if targets.ndim not in (1, 2) or len(targets) != num_tokens or targets.size == 0:
        raise InvalidInputError(
            f"{place}.loss_fn_inputs[{TARGETS!r}] has shape {list(targets.shape)}; expected "
            f"[{num_tokens}] or [{num_tokens}, K] for {num_tokens} input tokens"
        )
    if not np.issubdtype(targets.dtype, np.integer):
        raise InvalidInputError(
            f"{place}.loss_fn_inputs[{TARGETS!r}] has dtype {targets.dtype}; expected int64"
        )
    for name in sorted(present - {TARGETS}):
        values = datum.loss_fn_inputs[name]
        if values.shape != targets.shape:
            raise InvalidInputError(
                f"{place}.loss_fn_inputs[{name!r}] has shape {list(values.shape)}; expected "
                f"{list(targets.shape)}, the shape of {TARGETS}"
            )
        finite = np.isfinite(values.astype(np.float32))
        if not finite.all():
            position = tuple(int(i) for i in np.argwhere(~finite)[0])
            shown = ", ".join(str(i) for i in position)
            raise InvalidInputError(
                f"{place}.loss_fn_inputs[{name!r}][{shown}] is {values[position]}; expected a "
                "finite number"
            )
