"""One forward_backward, executed micro-batch by micro-batch.

Shape suffixes: T packed tokens, K targets per position, H hidden size, P all parameters.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from tinsmith.domain.datum import TARGETS, Datum
from tinsmith.domain.errors import UserError
from tinsmith.domain.ops import ForwardBackward
from tinsmith.domain.outcomes import ForwardBackwardDone
from tinsmith.engine.base_model import BaseModel
from tinsmith.engine.training_state import TrainingState
from tinsmith.nn.context import Prefill
from tinsmith.nn.logprobs import target_logprobs
from tinsmith.nn.losses import LOSSES
from tinsmith.nn.sequences import PackedSequences
from tinsmith.scheduler.packing import pack_in_order


class MicroBatchPass:
    """Made by Trainer.start, of an op that has been validated."""

    def __init__(
        self, base: BaseModel, state: TrainingState, op: ForwardBackward, token_budget: int
    ) -> None:
        self._base = base
        self._state = state
        self._op = op
        self._loss = LOSSES[op.loss_fn]
        self._settings = {**self._loss.settings, **op.loss_fn_config}
        self._remaining = pack_in_order([len(datum.tokens) for datum in op.data], token_budget)
        self._logprobs: list[NDArray[np.float32]] = []
        self._loss_sum = 0.0
        self._gradient_P: Tensor | None = None
        """The op's own sum; it reaches the run only when the whole op has succeeded."""

    def advance(self) -> ForwardBackwardDone | None:
        """Run the next micro-batch; the outcome after the last one, None before.

        Raises:
            UserError: the loss, a logprob or the gradient is not finite. The run's gradient is as
                it was; the window is marked as incomplete.
        """
        assert self._remaining, "advance() after the outcome"
        try:
            self._run(self._remaining[0])
            del self._remaining[0]
            return self._finish() if not self._remaining else None
        except Exception as error:
            if not self._op.forward_only:
                self._state.fail_window(str(error))
            raise

    def _run(self, numbers: range) -> None:
        op, base, device = self._op, self._base, self._base.device
        data = op.data[numbers.start : numbers.stop]
        sequences = PackedSequences([len(datum.tokens) for datum in data], device)
        token_T = _packed([datum.tokens for datum in data], device)
        target_TK = _stacked([datum.loss_fn_inputs[TARGETS] for datum in data], np.int64, device)
        inputs = {
            name: _stacked([_values(datum, name) for datum in data], np.float32, device)
            for name in self._loss.inputs
        }
        gate_T = (inputs[self._loss.gate] != 0).any(dim=1)
        trains = not op.forward_only and bool(gate_T.any())
        adapter = self._state.adapter

        def project(hidden_CH: Tensor) -> Tensor:
            return base.logits(hidden_CH, [adapter.segment(len(hidden_CH))])

        with torch.set_grad_enabled(trains):
            hidden_TH = base.hidden(
                token_T,
                sequences.position_ids[0],
                [adapter.segment(len(token_T))],
                Prefill(sequences),
            )
            logprobs_TK = target_logprobs(project, hidden_TH, target_TK, gate_T, base.vocab_size)
            loss = self._loss.per_token(logprobs_TK, inputs, self._settings).sum()
        loss_sum = float(loss.detach())
        if not (math.isfinite(loss_sum) and math.isfinite(float(logprobs_TK.detach().sum()))):
            raise UserError(
                f"the loss of data[{numbers.start}:{numbers.stop}] is not finite ({loss_sum}): the "
                "adapter has diverged (try a lower learning rate) or the weights are too large"
            )
        if trains:
            self._backward(loss)
        self._loss_sum += loss_sum
        self._keep(logprobs_TK.detach(), data)

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
        return ForwardBackwardDone(tuple(self._logprobs), {"loss:sum": self._loss_sum})

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


def _packed(arrays: Sequence[NDArray[np.generic]], device: torch.device) -> Tensor:
    return torch.from_numpy(np.concatenate(arrays).astype(np.int64)).to(device)


def _stacked(
    arrays: Sequence[NDArray[np.generic]], dtype: type[np.generic], device: torch.device
) -> Tensor:
    """[T, K] of arrays [N] or [N, K]; zeros stand where an array has fewer than K columns (token
    0 with weight 0, which adds nothing and is cut off again)."""
    columns = [array[:, None] if array.ndim == 1 else array for array in arrays]
    widest = max(array.shape[1] for array in columns)
    stacked = np.zeros((sum(len(array) for array in columns), widest), dtype=dtype)
    start = 0
    for array in columns:
        stacked[start : start + len(array), : array.shape[1]] = array
        start += len(array)
    return torch.from_numpy(stacked).to(device)
