from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable

import numpy as np
import pytest
import torch
from tinsmith.domain.datum import Datum
from tinsmith.domain.errors import InvalidInputError, UserError
from tinsmith.domain.ops import AdamParams, ForwardBackward, LoraConfig, OptimStep
from tinsmith.engine.adapter import AdapterState
from tinsmith.engine.base_model import BaseModel
from tinsmith.engine.trainer import Trainer, TrainingSettings
from tinsmith.engine.training_state import TrainingState

STEP = OptimStep(AdamParams(learning_rate=0.01))
Batch = Callable[..., ForwardBackward]


@pytest.fixture
def new_state(
    tiny_qwen3: BaseModel, trained_adapter: Callable[..., AdapterState]
) -> Callable[[], TrainingState]:
    return lambda: TrainingState(trained_adapter(tiny_qwen3, LoraConfig(4, 0)))


@pytest.fixture
def state(new_state: Callable[[], TrainingState]) -> TrainingState:
    return new_state()


def gradient_of(state: TrainingState) -> torch.Tensor:
    assert state.gradient_P is not None
    return state.gradient_P.clone()


def snapshot(state: TrainingState) -> list[bytes]:
    tensors = [state.adapter.weights_P, state.optimizer.exp_avg_P, state.optimizer.exp_avg_sq_P]
    if state.gradient_P is not None:
        tensors.append(state.gradient_P)
    return [tensor.numpy().tobytes() for tensor in tensors]


def with_weights(op: ForwardBackward, weights: Callable[[int], np.ndarray]) -> ForwardBackward:
    data = tuple(
        Datum(d.tokens, {**d.loss_fn_inputs, "weights": weights(len(d.tokens))}) for d in op.data
    )
    return dataclasses.replace(op, data=data)


def test_four_copies_of_a_datum_have_four_times_the_gradient(
    tiny_qwen3: BaseModel, new_state: Callable[[], TrainingState], batch: Batch
) -> None:
    op = batch((13,))
    one, four = new_state(), new_state()
    first = Trainer(tiny_qwen3, one).forward_backward(op)
    copies = Trainer(tiny_qwen3, four).forward_backward(dataclasses.replace(op, data=op.data * 4))
    torch.testing.assert_close(gradient_of(four), 4 * gradient_of(one), rtol=1e-4, atol=1e-5)
    assert copies.metrics["loss:sum"] == pytest.approx(4 * first.metrics["loss:sum"], rel=1e-5)


def test_ops_of_a_window_add_up_as_one_op_would(
    tiny_qwen3: BaseModel, new_state: Callable[[], TrainingState], batch: Batch
) -> None:
    op = batch((11, 3, 17))
    together, apart = new_state(), new_state()
    Trainer(tiny_qwen3, together).forward_backward(op)
    for datum in op.data:
        part = dataclasses.replace(op, data=(datum,))
        Trainer(tiny_qwen3, apart).forward_backward(part)
    torch.testing.assert_close(gradient_of(apart), gradient_of(together), rtol=1e-4, atol=1e-5)


def test_what_shares_the_pack_does_not_matter(
    tiny_qwen3: BaseModel, state: TrainingState, batch: Batch
) -> None:
    op, other = batch((11, 3, 17)), batch((5, 20), seed=9)
    trainer = Trainer(tiny_qwen3, state)
    alone = trainer.forward_backward(op).logprobs
    mixed = dataclasses.replace(op, data=(other.data[0], *op.data, other.data[1]))
    beside = trainer.forward_backward(mixed).logprobs[1:-1]
    for a, b in zip(alone, beside, strict=True):
        np.testing.assert_allclose(a, b, atol=1e-5)


@pytest.mark.parametrize("token_budget", [1, 14, 4096])
def test_the_token_budget_changes_turns_but_not_results(
    tiny_qwen3: BaseModel, new_state: Callable[[], TrainingState], batch: Batch, token_budget: int
) -> None:
    op = batch((11, 3, 17))
    state, reference = new_state(), new_state()
    work = Trainer(tiny_qwen3, state, TrainingSettings(token_budget=token_budget)).start(op)
    turns = 1
    while (done := work.advance()) is None:
        assert state.gradient_P is None
        turns += 1
    want = Trainer(tiny_qwen3, reference, TrainingSettings(token_budget=100)).forward_backward(op)

    assert turns == {1: 3, 14: 2, 4096: 1}[token_budget]
    torch.testing.assert_close(gradient_of(state), gradient_of(reference), rtol=1e-4, atol=1e-5)
    for ours, wanted in zip(done.logprobs, want.logprobs, strict=True):
        np.testing.assert_allclose(ours, wanted, atol=1e-5)


def test_training_repeats_bit_for_bit(
    tiny_qwen3: BaseModel, new_state: Callable[[], TrainingState], batch: Batch
) -> None:
    results = []
    for _ in range(2):
        state = new_state()
        trainer = Trainer(tiny_qwen3, state, TrainingSettings(token_budget=20))
        for seed in range(3):
            trainer.forward_backward(batch(seed=seed))
            trainer.optim_step(STEP)
        results.append(snapshot(state))
    assert results[0] == results[1]


def test_training_lowers_the_loss(
    tiny_qwen3: BaseModel, state: TrainingState, batch: Batch
) -> None:
    op = with_weights(batch(), lambda n: np.ones(n, np.float32))
    trainer, losses = Trainer(tiny_qwen3, state), []
    for _ in range(8):
        losses.append(trainer.forward_backward(op).metrics["loss:sum"])
        trainer.optim_step(STEP)
    assert losses[-1] < 0.7 * losses[0]


def test_forward_only_leaves_everything_alone_and_scores_alike(
    tiny_qwen3: BaseModel, state: TrainingState, batch: Batch
) -> None:
    trainer = Trainer(tiny_qwen3, state)
    trained = trainer.forward_backward(batch())
    before = snapshot(state)
    scored = trainer.forward_backward(batch(forward_only=True))
    assert snapshot(state) == before
    assert scored.metrics["loss:sum"] == pytest.approx(trained.metrics["loss:sum"], rel=1e-5)
    for a, b in zip(scored.logprobs, trained.logprobs, strict=True):
        np.testing.assert_allclose(a, b, atol=1e-5)


def test_forward_only_needs_no_weights(
    tiny_qwen3: BaseModel, state: TrainingState, batch: Batch
) -> None:
    (datum,) = batch((7,)).data
    bare = Datum(datum.tokens, {"target_tokens": datum.loss_fn_inputs["target_tokens"]})
    done = Trainer(tiny_qwen3, state).forward_backward(
        ForwardBackward((bare,), "cross_entropy", forward_only=True)
    )
    assert done.metrics["loss:sum"] == pytest.approx(-float(done.logprobs[0].sum()), rel=1e-5)
    assert state.gradient_P is None


def test_weights_of_zero_change_nothing_bit_for_bit(
    tiny_qwen3: BaseModel, state: TrainingState, batch: Batch
) -> None:
    trainer = Trainer(tiny_qwen3, state)
    trainer.forward_backward(batch())
    assert state.gradient_P is not None
    state.gradient_P[0] = -0.0  # adding 0.0 would lose the sign
    before = snapshot(state)
    done = trainer.forward_backward(with_weights(batch(seed=1), lambda n: np.zeros(n, np.float32)))
    assert snapshot(state) == before
    assert done.metrics["loss:sum"] == 0
    assert all(np.isfinite(lp).all() and (lp < 0).all() for lp in done.logprobs)


def test_logprobs_come_in_the_shape_of_the_targets(
    tiny_qwen3: BaseModel, state: TrainingState
) -> None:
    rng = np.random.default_rng(0)
    data = []
    for shape in ((5,), (4, 3), (6, 1), (2,)):
        targets = rng.integers(0, 97, shape)
        weights = rng.normal(size=shape).astype(np.float32)
        tokens = rng.integers(0, 97, shape[0]).astype(np.int32)
        data.append(Datum(tokens, {"target_tokens": targets, "weights": weights}))
    trainer = Trainer(tiny_qwen3, state)
    done = trainer.forward_backward(ForwardBackward(tuple(data), "cross_entropy"))

    assert [lp.shape for lp in done.logprobs] == [(5,), (4, 3), (6, 1), (2,)]
    want = -sum(
        float((d.loss_fn_inputs["weights"] * lp).sum())
        for d, lp in zip(data, done.logprobs, strict=True)
    )
    assert done.metrics["loss:sum"] == pytest.approx(want, rel=1e-4)
    # One column of the soft targets is an ordinary datum.
    column = data[1].loss_fn_inputs["target_tokens"][:, 2]
    alone = Datum(data[1].tokens, {"target_tokens": column})
    op = ForwardBackward((alone,), "cross_entropy", forward_only=True)
    np.testing.assert_allclose(
        trainer.forward_backward(op).logprobs[0], done.logprobs[1][:, 2], atol=1e-5
    )


def test_a_failing_op_leaves_the_gradient_and_spoils_the_window(
    tiny_qwen3: BaseModel, state: TrainingState, batch: Batch
) -> None:
    trainer = Trainer(tiny_qwen3, state, TrainingSettings(token_budget=12))
    trainer.forward_backward(batch())
    before = snapshot(state)
    good, bad = batch((5,)), with_weights(batch((6,)), lambda n: np.full(n, 3e38, np.float32))
    work = trainer.start(dataclasses.replace(good, data=(*batch((9,)).data, *bad.data)))
    assert work.advance() is None
    with pytest.raises(UserError, match=r"loss of data\[1:2\] is not finite"):
        work.advance()
    assert snapshot(state) == before

    trainer.forward_backward(good)
    with pytest.raises(InvalidInputError, match=r"not taken.*not finite"):
        trainer.optim_step(STEP)
    assert state.gradient_P is None and snapshot(state) == before[:3]
    trainer.forward_backward(good)
    trainer.optim_step(STEP)  # the next window is a fresh one


def test_a_gradient_that_overflows_fails_the_op(
    tiny_qwen3: BaseModel, state: TrainingState, batch: Batch
) -> None:
    # Small enough for a finite loss, too large for the sums of the backward pass.
    op = with_weights(batch((9,)), lambda n: np.where(np.arange(n) % 2, 1e37, -1e37).astype("f4"))
    with pytest.raises(UserError, match="not finite"):
        Trainer(tiny_qwen3, state).forward_backward(op)
    assert state.gradient_P is None


def test_a_step_applies_the_clipped_gradient_and_clears_it(
    tiny_qwen3: BaseModel, state: TrainingState, batch: Batch
) -> None:
    trainer = Trainer(tiny_qwen3, state)
    trainer.forward_backward(batch())
    gradient, parameter = gradient_of(state), torch.nn.Parameter(state.adapter.weights_P.clone())
    parameter.grad = gradient * min(1.0, 0.5 / float(gradient.norm()))
    adam = AdamParams(0.02, 0.8, 0.9, 1e-8, weight_decay=0.1, grad_clip_norm=0.5)
    torch.optim.AdamW([parameter], 0.02, (0.8, 0.9), 1e-8, 0.1).step()

    done = trainer.optim_step(OptimStep(adam))

    torch.testing.assert_close(state.adapter.weights_P, parameter.detach(), rtol=1e-4, atol=1e-6)
    assert done.metrics["grad_norm:mean"] == pytest.approx(float(gradient.norm()), rel=1e-5)
    assert state.gradient_P is None and state.optimizer.num_steps == 1
    # The views follow the vector.
    pair = next(pair for pair in state.adapter.pairs if pair is not None)
    torch.testing.assert_close(
        pair[0].detach().flatten(), state.adapter.weights_P[: pair[0].numel()]
    )


def test_a_step_without_gradient_is_refused(tiny_qwen3: BaseModel, state: TrainingState) -> None:
    before = snapshot(state)
    with pytest.raises(InvalidInputError, match="no gradient to step with"):
        Trainer(tiny_qwen3, state).optim_step(STEP)
    assert snapshot(state) == before


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("learning_rate", 1e39),
        ("learning_rate", float("nan")),
        ("beta1", 1.0),
        ("grad_clip_norm", -1.0),
    ],
)
def test_a_bad_optimizer_setting_is_named_and_ends_the_window(
    tiny_qwen3: BaseModel, state: TrainingState, batch: Batch, name: str, value: float
) -> None:
    trainer = Trainer(tiny_qwen3, state)
    trainer.forward_backward(batch())
    before = snapshot(state)
    with pytest.raises(InvalidInputError, match=re.escape(f"{name} {value} is out of range")):
        trainer.optim_step(OptimStep(dataclasses.replace(AdamParams(), **{name: value})))
    assert state.gradient_P is None and snapshot(state) == before[:3]


def test_a_step_into_nothing_is_refused(tiny_qwen3: BaseModel, batch: Batch) -> None:
    # While B is zero A has no gradient, and without eps its step is 0 / 0.
    state = TrainingState(AdapterState.create(tiny_qwen3, LoraConfig(4, 0)))
    trainer = Trainer(tiny_qwen3, state)
    trainer.forward_backward(batch())
    before = snapshot(state)
    with pytest.raises(UserError, match="would leave weights that are not finite"):
        trainer.optim_step(OptimStep(AdamParams(eps=0.0)))
    assert snapshot(state) == before[:3] and state.optimizer.num_steps == 0


def datum(**changes: object) -> Datum:
    inputs: dict[str, object] = {
        "target_tokens": np.array([1, 2, 3]),
        "weights": np.ones(3, np.float32),
    }
    tokens = changes.pop("tokens", np.array([4, 5, 6], np.int32))
    inputs |= changes
    kept = {name: value for name, value in inputs.items() if value is not None}
    return Datum(tokens, kept)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("op", "message"),
    [
        (ForwardBackward((), "cross_entropy"), "batch is empty"),
        (ForwardBackward((datum(),), "ppo2"), "'ppo2' is not supported; supported: cispo, cross"),
        (
            ForwardBackward((datum(),), "cross_entropy", {"beta": 0.1}),
            "no setting 'beta'; its settings: none",
        ),
        (
            ForwardBackward(
                (datum(), datum(tokens=np.array([4, 97, 6], np.int32))), "cross_entropy"
            ),
            r"data\[1\].model_input\[1\] is token id 97.*0 to 96",
        ),
        (ForwardBackward((datum(weights=None),), "cross_entropy"), r"data\[0\].* lacks weights"),
        (
            ForwardBackward((datum(weights=np.array([1, np.nan, 0], "f4")),), "cross_entropy"),
            r"\['weights'\]\[1\] is nan",
        ),
        (
            ForwardBackward((datum(tokens=np.ones(65, np.int32)),), "cross_entropy"),
            r"data\[0\].model_input has 65 tokens; the model's context holds 64",
        ),
    ],
)
def test_a_bad_op_is_refused_by_place_and_value(
    tiny_qwen3: BaseModel, state: TrainingState, op: ForwardBackward, message: str
) -> None:
    before = snapshot(state)
    with pytest.raises(InvalidInputError, match=message):
        Trainer(tiny_qwen3, state).start(op)
    assert snapshot(state) == before
    assert state.window_failure is not None


def test_a_bad_forward_does_not_spoil_the_window(
    tiny_qwen3: BaseModel, state: TrainingState, batch: Batch
) -> None:
    trainer = Trainer(tiny_qwen3, state)
    trainer.forward_backward(batch())
    with pytest.raises(InvalidInputError):
        trainer.start(ForwardBackward((), "cross_entropy", forward_only=True))
    trainer.optim_step(STEP)
