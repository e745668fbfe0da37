"""One forward_backward, executed micro-batch by micro-batch.

Shape suffixes: T packed tokens, K targets per position, H hidden size, P all parameters, N
positions of all datums one after another; M, U and A as in engine.scored.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from tinsmith.domain.datum import TARGETS, Datum
from tinsmith.domain.errors import InvalidInputError, UserError
from tinsmith.domain.ops import ForwardBackward
from tinsmith.domain.outcomes import ForwardBackwardDone
from tinsmith.engine.activation_memory import ALWAYS_THERE, Demand, room_on
from tinsmith.engine.base_model import BaseModel
from tinsmith.engine.expert_load import ExpertLoad
from tinsmith.engine.scored import Scored
from tinsmith.engine.training_state import TrainingState
from tinsmith.nn.context import Prefill
from tinsmith.nn.logprobs import target_logprobs
from tinsmith.nn.losses import DATUM, LOSSES
from tinsmith.nn.sequences import PackedSequences
from tinsmith.scheduler.packing import pack_in_order


@dataclass(frozen=True, kw_only=True, slots=True)
class TrainingSettings:
    """How a forward_backward is executed. All but the last one change rounding at most."""

    token_budget: int = 4096
    """Tokens per micro-batch, before shared ones are taken out; a longer sequence goes alone."""
    share_prefixes: bool = True
    """Compute what sequences of a micro-batch have in common at their heads once."""
    select_last_layer: bool = True
    """Work in the last layer only at the positions whose logprobs are wanted."""
    checkpointing: bool | None = None
    """Keep only the layers' inputs for backward and compute the rest again. None: where
    there is no room for all of it. The result is the same bit for bit."""
    activation_bytes: int | None = None
    """What activations may take; None is what is free when a micro-batch starts."""
    zero_weight_logprobs: bool = True
    """Answer log p also of targets whose weight is 0, as the hosted service does. Without, they
    read 0.0, and only weighted positions pay for the output layer."""


OnBegin = Callable[[int], None]
"""Called with the tokens of a micro-batch before they go through the model."""


def no_news(num_tokens: int) -> None:
    """Nobody wants to know."""


class MicroBatchPass:
    """Made by Trainer.start, of an op that has been validated."""

    def __init__(
        self, base: BaseModel, state: TrainingState, op: ForwardBackward, settings: TrainingSettings
    ) -> None:
        self._base = base
        self._state = state
        self._op = op
        self._settings = settings
        self._loss = LOSSES[op.loss_fn]
        self._loss_settings = self._loss.settings_of(op.loss_fn_config)
        self._remaining = pack_in_order(
            [len(datum.tokens) for datum in op.data], settings.token_budget
        )
        self._logprobs: list[NDArray[np.float32]] = []
        self._loss_sum = 0.0
        self._expert_load = ExpertLoad(base.experts)
        self._gradient_P: Tensor | None = None
        """The op's own sum; it reaches the run only when the whole op has succeeded."""

    def advance(self, on_begin: OnBegin = no_news) -> ForwardBackwardDone | None:
        """Run the next micro-batch; the outcome after the last one, None before.

        Args:
            on_begin: called with the tokens that go through the model, shared ones counted once,
                before they do.

        Raises:
            UserError: the loss, a logprob or the gradient is not finite. The run's gradient is as
                it was; the window is marked as incomplete.
        """
        assert self._remaining, "advance() after the outcome"
        try:
            self._run(self._remaining[0], on_begin)
            del self._remaining[0]
            return self._finish() if not self._remaining else None
        except Exception as error:
            if not self._op.forward_only:
                self._state.fail_window(str(error))
            raise

    def _run(self, numbers: range, on_begin: Callable[[int], None]) -> None:
        op, base, settings = self._op, self._base, self._settings
        data = op.data[numbers.start : numbers.stop]
        tokens = [datum.tokens for datum in data]
        if settings.share_prefixes:
            pack = PackedSequences.sharing(tokens, base.device)
        else:
            pack = PackedSequences([len(one) for one in tokens], base.device)
        on_begin(pack.num_tokens)
        target_NK = _stacked([datum.loss_fn_inputs[TARGETS] for datum in data], np.int64)
        inputs = {
            name: _stacked([_values(datum, name) for datum in data], np.float32)
            for name in self._loss.inputs
        }
        everywhere_N = np.ones(len(target_NK), dtype=np.bool_)
        gate_N = asked_N = everywhere_N
        if (gate := self._loss.gate) is not None:
            gate_N = asked_N = (inputs[gate] != 0).any(axis=1)
        if op.forward_only or settings.zero_weight_logprobs:
            asked_N = everywhere_N
        elif (scored_too := self._loss.scored) is not None:
            asked_N = gate_N | (inputs[scored_too] != 0).any(axis=1)
        if op.forward_only:
            gate_N = np.zeros_like(gate_N)
        scored = Scored.of(np.concatenate(pack.places), target_NK, asked_N, gate_N)
        trains = bool(gate_N.any())
        checkpointing = self._needs_checkpointing(pack, scored, numbers, trains)
        with torch.set_grad_enabled(trains):
            logprobs_NK = self._logprobs_of(pack, pack.token_ids(tokens), scored, checkpointing)
            on_device = {name: self._to_device(array) for name, array in inputs.items()}
            on_device[DATUM] = self._to_device(
                np.repeat(np.arange(len(data)), [len(one) for one in tokens])
            )
            loss = self._loss.per_token(logprobs_NK, on_device, self._loss_settings).sum()
        if trains:
            self._backward(loss)
        # The first look at a value: a GPU has all its work by now.
        loss_sum = float(loss.detach())
        logprobs_NK = logprobs_NK.detach()
        if not (math.isfinite(loss_sum) and math.isfinite(float(logprobs_NK.sum()))):
            raise UserError(
                f"the loss of data[{numbers.start}:{numbers.stop}] is not finite ({loss_sum}): the "
                "adapter has diverged (try a lower learning rate), the weights or advantages are "
                "too large, or the logprobs are far from what the model gives now"
            )
        self._loss_sum += loss_sum
        self._keep(logprobs_NK, data)

    def _needs_checkpointing(
        self, pack: PackedSequences, scored: Scored, numbers: range, trains: bool
    ) -> bool:
        if self._settings.checkpointing is not None:
            return self._settings.checkpointing
        demand = Demand.of(pack, len(scored.target_UK))
        memory, room = self._base.activation_memory, self._settings.activation_bytes
        if room is None:
            if memory.bytes_for(demand, trains=trains, checkpointing=False) <= ALWAYS_THERE:
                return False
            room = room_on(self._base.device)
        try:
            return memory.must_recompute(demand, room, trains=trains)
        except MemoryError as error:
            raise InvalidInputError(f"data[{numbers.start}:{numbers.stop}]: {error}") from error

    def _logprobs_of(
        self, pack: PackedSequences, token_T: Tensor, scored: Scored, checkpointing: bool
    ) -> Tensor:
        """[N, K], zeros where nothing is scored."""
        base, adapter = self._base, self._state.adapter
        segment = adapter.segment(pack.num_tokens)
        if len(scored.places) == 0:
            return torch.zeros(scored.shape, device=base.device)
        # Where every place is trained on, there is nothing to select.
        selects = len(scored.places.differentiable) < pack.num_tokens
        selects = selects and self._settings.select_last_layer
        with self._expert_load.counting():
            hidden = base.hidden(
                token_T,
                pack.position_ids[0],
                [segment],
                Prefill(pack),
                asked=scored.places if selects else None,
                checkpointing=checkpointing,
            )
        row_U = scored.row_U if selects else scored.place_U
        logprobs_UK = target_logprobs(
            base.output_layer(segment),
            hidden.index_select(0, self._to_device(row_U)),
            self._to_device(scored.target_UK),
            self._to_device(scored.needs_grad_U),
        )
        logprobs_NK = torch.zeros(scored.shape, device=base.device)
        return logprobs_NK.index_put(
            (self._to_device(scored.position_A),),
            logprobs_UK.index_select(0, self._to_device(scored.unique_A)),
        )

    def _to_device(self, array: NDArray[np.generic]) -> Tensor:
        return torch.from_numpy(array).to(self._base.device)

    def _backward(self, loss: Tensor) -> None:
        """Add the gradient to the op's own sum: autograd adds into .grad in place, and the
        parameters' .grad are views of that one vector meanwhile."""
        adapter = self._state.adapter
        if self._gradient_P is None:
            self._gradient_P = torch.zeros_like(adapter.weights_P)
        leaves = [leaf for pair in adapter.pairs if pair is not None for leaf in pair]
        views = [
            view
            for pair in adapter.layout.pairs(self._gradient_P)
            if pair is not None
            for view in pair
        ]
        try:
            for leaf, view in zip(leaves, views, strict=True):
                leaf.grad = view
            loss.backward()
        finally:
            for leaf in leaves:
                leaf.grad = None

    def _keep(self, logprobs_TK: Tensor, data: Sequence[Datum]) -> None:
        rows = logprobs_TK.cpu().numpy()
        start = 0
        for datum in data:
            shape = datum.loss_fn_inputs[TARGETS].shape
            stop = start + shape[0]
            num_targets = 1 if len(shape) == 1 else shape[1]
            self._logprobs.append(rows[start:stop, :num_targets].reshape(shape).copy())
            start = stop

    def _finish(self) -> ForwardBackwardDone:
        if not self._op.forward_only:
            self._add_gradient()
        metrics = {"loss:sum": self._loss_sum, **self._expert_load.metrics()}
        return ForwardBackwardDone(tuple(self._logprobs), metrics)

    def _add_gradient(self) -> None:
        state = self._state
        if self._gradient_P is None:
            # Weights of zero only. Adding zeros would turn -0.0 into 0.0.
            if state.gradient_P is None:
                state.gradient_P = torch.zeros_like(state.adapter.weights_P)
            return
        # One pass: whatever is not finite makes the sum so.
        if not math.isfinite(float(self._gradient_P.sum())):
            raise UserError(
                "the gradient is not finite: the weights in the batch are too large, or the "
                "adapter has diverged (try a lower learning rate)"
            )
        if state.gradient_P is None:
            state.gradient_P = self._gradient_P
        else:
            state.gradient_P.add_(self._gradient_P)


def _values(datum: Datum, name: str) -> NDArray[np.generic]:
    given = datum.loss_fn_inputs.get(name)
    if given is None:
        return np.ones(datum.loss_fn_inputs[TARGETS].shape, dtype=np.float32)
    return given


def _stacked(arrays: Sequence[NDArray[np.generic]], dtype: type[np.generic]) -> NDArray[Any]:
    """[N, K] of arrays [n] or [n, k]; zeros stand where an array has fewer than K columns (token
    0 with weight 0, which adds nothing and is cut off again)."""
    columns = [array[:, None] if array.ndim == 1 else array for array in arrays]
    widest = max(array.shape[1] for array in columns)
    stacked = np.zeros((sum(len(array) for array in columns), widest), dtype=dtype)
    start = 0
    for array in columns:
        stacked[start : start + len(array), : array.shape[1]] = array
        start += len(array)
    return stacked
