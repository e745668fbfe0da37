"""Losses of sampled tokens through the model: what they add to a run's gradient."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import numpy as np
import pytest
import torch
from tinsmith.domain.datum import Datum
from tinsmith.domain.errors import UserError
from tinsmith.domain.ops import ForwardBackward, LoraConfig
from tinsmith.engine.adapter import AdapterState
from tinsmith.engine.base_model import BaseModel
from tinsmith.engine.trainer import Trainer, TrainingSettings
from tinsmith.engine.training_state import TrainingState
from tinsmith.nn.losses import DATUM, LOSSES

POLICY_LOSSES = sorted(LOSSES.keys() - {"cross_entropy"})
PATHS = {
    "as_shipped": TrainingSettings(),
    "weighted_only": TrainingSettings(zero_weight_logprobs=False),
    "one_datum_at_a_time": TrainingSettings(token_budget=1, zero_weight_logprobs=False),
}


@pytest.fixture
def new_state(
    tiny_qwen3: BaseModel, trained_adapter: Callable[..., AdapterState]
) -> Callable[[], TrainingState]:
    return lambda: TrainingState(trained_adapter(tiny_qwen3, LoraConfig(4, 0)))


def scored(base: BaseModel, state: TrainingState, op: ForwardBackward) -> list[np.ndarray]:
    bare = tuple(
        Datum(d.tokens, {"target_tokens": d.loss_fn_inputs["target_tokens"]}) for d in op.data
    )
    asked = ForwardBackward(bare, "cross_entropy", forward_only=True)
    return list(Trainer(base, state).forward_backward(asked).logprobs)


def sampled(op: ForwardBackward, name: str, logprobs: list[np.ndarray]) -> ForwardBackward:
    """The op with ratios on both sides of the thresholds, advantages on the last two thirds, and
    a mask that begins before them."""
    rng = np.random.default_rng(1)
    data = []
    for datum, lp in zip(op.data, logprobs, strict=True):
        place = np.arange(len(lp))
        inputs = {
            "target_tokens": datum.loss_fn_inputs["target_tokens"],
            "logprobs": (lp - rng.normal(scale=0.4, size=len(lp))).astype(np.float32),
            "advantages": np.where(place < len(lp) // 3, 0, rng.normal(size=len(lp))).astype("f4"),
            "sequence_ratio_mask": (place >= len(lp) // 4).astype(np.float32),
        }
        kept = {"target_tokens", *LOSSES[name].inputs}
        data.append(Datum(datum.tokens, {key: inputs[key] for key in inputs if key in kept}))
    return dataclasses.replace(op, data=tuple(data), loss_fn=name)


def closed_form(op: ForwardBackward, logprobs: list[np.ndarray]) -> tuple[float, ForwardBackward]:
    """The loss, and the cross entropy that has its derivative by each log p; in float64."""
    loss = LOSSES[op.loss_fn]
    total, data = 0.0, []
    for datum, lp in zip(op.data, logprobs, strict=True):
        leaf = torch.from_numpy(lp.astype(np.float64))[:, None].requires_grad_()
        inputs = {
            name: torch.from_numpy(datum.loss_fn_inputs[name].astype(np.float64))[:, None]
            for name in loss.inputs
        }
        inputs[DATUM] = torch.zeros(len(lp), dtype=torch.int64)
        value = loss.per_token(leaf, inputs, loss.settings_of(op.loss_fn_config)).sum()
        value.backward()
        total += value.item()
        assert leaf.grad is not None
        data.append(
            Datum(
                datum.tokens,
                {
                    "target_tokens": datum.loss_fn_inputs["target_tokens"],
                    "weights": -leaf.grad[:, 0].numpy().astype(np.float32),
                },
            )
        )
    return total, ForwardBackward(tuple(data), "cross_entropy")


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("name", POLICY_LOSSES)
def test_a_loss_trains_as_cross_entropy_weighted_by_its_derivative(
    name: str,
    path: str,
    tiny_qwen3: BaseModel,
    new_state: Callable[[], TrainingState],
    batch: Callable[..., ForwardBackward],
) -> None:
    state, by_hand = new_state(), new_state()
    logprobs = scored(tiny_qwen3, state, batch())
    op = sampled(batch(), name, logprobs)
    total, weighted = closed_form(op, logprobs)

    done = Trainer(tiny_qwen3, state, PATHS[path]).forward_backward(op)
    Trainer(tiny_qwen3, by_hand).forward_backward(weighted)

    assert done.metrics["loss:sum"] == pytest.approx(total, rel=1e-4)
    assert state.gradient_P is not None and by_hand.gradient_P is not None
    difference = (state.gradient_P - by_hand.gradient_P).norm() / by_hand.gradient_P.norm()
    assert float(difference) < 1e-4


@pytest.mark.parametrize("name", POLICY_LOSSES)
def test_a_forward_pass_gives_the_loss_and_leaves_no_trace(
    name: str,
    tiny_qwen3: BaseModel,
    new_state: Callable[[], TrainingState],
    batch: Callable[..., ForwardBackward],
) -> None:
    state = new_state()
    op = sampled(batch(), name, scored(tiny_qwen3, state, batch()))
    trainer = Trainer(tiny_qwen3, state)
    forward = trainer.forward_backward(dataclasses.replace(op, forward_only=True))
    assert state.gradient_P is None
    assert forward.metrics == pytest.approx(trainer.forward_backward(op).metrics, rel=1e-5)


def test_a_ratio_beyond_all_numbers_fails_the_op_by_name(
    tiny_qwen3: BaseModel,
    new_state: Callable[[], TrainingState],
    batch: Callable[..., ForwardBackward],
) -> None:
    state = new_state()
    op = sampled(batch(), "importance_sampling", scored(tiny_qwen3, state, batch()))
    op.data[0].loss_fn_inputs["logprobs"][-1] = -1e4
    with pytest.raises(UserError, match="logprobs are far from what the model gives now"):
        Trainer(tiny_qwen3, state).forward_backward(op)
    assert state.gradient_P is None
