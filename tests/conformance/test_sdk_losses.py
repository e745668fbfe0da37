"""Every loss through the unmodified SDK."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
import tinker
from sdk_steps import ADAM, adapter_of, assert_equal_adapters, batch_of, train

# A large eps makes the first step proportional to the gradient, so that sizes show.
PROPORTIONAL = tinker.AdamParams(learning_rate=1.0, eps=1e3)
RATIOS = np.exp([-1.5, -0.1, 0.1, 0.6, 0.0, -0.4, 0.3])
ADVANTAGES = np.array([0.0, 1.0, -1.0, 2.0, 0.5, -0.7, -1.3])
MASK = np.array([0.0, 1, 1, 1, 1, 1, 0])


def clamped(ratio: np.ndarray, low: float = 0.8, high: float = 1.2) -> np.ndarray:
    return np.minimum(np.maximum(ratio, low), high)


def clipped(ratio: np.ndarray, low: float = 0.8, high: float = 1.2) -> tuple[float, np.ndarray]:
    value = -np.minimum(ratio * ADVANTAGES, clamped(ratio, low, high) * ADVANTAGES)
    free = ((ratio <= high) | (ADVANTAGES < 0)) & ((ratio >= low) | (ADVANTAGES > 0))
    return value.sum(), -ratio * ADVANTAGES * free


def of_datum(lp: np.ndarray) -> np.ndarray:
    return np.full_like(lp, math.exp((np.log(RATIOS) * MASK).sum() / MASK.sum()))


# lp -> (the loss, its derivative by each lp), for lp - q = log(RATIOS).
CLOSED_FORMS: dict[str, Callable[[np.ndarray], tuple[float, np.ndarray]]] = {
    "importance_sampling": lambda lp: (-(RATIOS * ADVANTAGES).sum(), -RATIOS * ADVANTAGES),
    "ppo": lambda lp: clipped(RATIOS),
    "cispo": lambda lp: (
        -(clamped(RATIOS) * lp * ADVANTAGES).sum(),
        -clamped(RATIOS) * ADVANTAGES,
    ),
    "dro": lambda lp: (
        -(lp * ADVANTAGES - 0.025 * np.log(RATIOS) ** 2).sum(),
        -(ADVANTAGES - 0.05 * np.log(RATIOS)),
    ),
    "gspo": lambda lp: clipped(of_datum(lp)),
}


def logprobs_of(output: tinker.ForwardBackwardOutput) -> list[np.ndarray]:
    return [one["logprobs"].to_numpy().astype(np.float64) for one in output.loss_fn_outputs]


def with_inputs(datum: tinker.Datum, **inputs: np.ndarray) -> tinker.Datum:
    targets = {"target_tokens": datum.loss_fn_inputs["target_tokens"]}
    arrays = {name: array.astype(np.float32) for name, array in inputs.items()}
    return tinker.Datum(model_input=datum.model_input, loss_fn_inputs={**targets, **arrays})


def sampled(name: str, datum: tinker.Datum, lp: np.ndarray, **changes: np.ndarray) -> tinker.Datum:
    inputs = {"logprobs": lp - np.log(RATIOS), "advantages": ADVANTAGES}
    if name == "gspo":
        inputs["sequence_ratio_mask"] = MASK
    return with_inputs(datum, **{**inputs, **changes})


@pytest.mark.parametrize("name", CLOSED_FORMS)
def test_a_loss_has_the_value_and_the_gradient_of_its_closed_form(name, make_run, rest):
    run, by_hand = make_run(), make_run()
    batch = batch_of(3, seed=5)
    logprobs = logprobs_of(run.forward(batch, "cross_entropy").result())
    data = [sampled(name, datum, lp) for datum, lp in zip(batch, logprobs, strict=True)]
    values, slopes = zip(*(CLOSED_FORMS[name](lp) for lp in logprobs), strict=True)

    forward = run.forward(data, name).result()
    output = run.forward_backward(data, name).result()

    assert output.metrics["loss:sum"] == pytest.approx(sum(values), rel=1e-4)
    assert forward.metrics["loss:sum"] == pytest.approx(sum(values), rel=1e-4)
    for ours, lp in zip(logprobs_of(output), logprobs, strict=True):
        np.testing.assert_allclose(ours, lp, atol=1e-5)
    weighted = [
        with_inputs(datum, weights=-slope) for datum, slope in zip(batch, slopes, strict=True)
    ]
    by_hand.forward_backward(weighted, "cross_entropy").result()
    for one in (run, by_hand):
        one.optim_step(PROPORTIONAL).result()
    assert_equal_adapters(adapter_of(run, rest, "a"), adapter_of(by_hand, rest, "a"), rtol=1e-3)


def test_a_custom_loss_equals_the_servers_own(make_run, rest):
    custom, built_in = make_run(), make_run()
    batch = batch_of(3, seed=6)
    logprobs = logprobs_of(custom.forward(batch, "cross_entropy").result())
    old = [lp - np.log(RATIOS) for lp in logprobs]

    def importance(data, now):
        import torch

        total = sum(
            -((lp - torch.from_numpy(q).float()).exp() * torch.from_numpy(ADVANTAGES).float()).sum()
            for lp, q in zip(now, old, strict=True)
        )
        return total, {}

    custom.forward_backward_custom(batch, importance).result()
    data = [
        sampled("importance_sampling", datum, lp) for datum, lp in zip(batch, logprobs, strict=True)
    ]
    built_in.forward_backward(data, "importance_sampling").result()
    for one in (custom, built_in):
        one.optim_step(PROPORTIONAL).result()
    assert_equal_adapters(adapter_of(custom, rest, "a"), adapter_of(built_in, rest, "a"), rtol=1e-3)


def test_thresholds_come_from_the_config(run):
    (datum,) = batch_of(1, seed=7)
    (lp,) = logprobs_of(run.forward([datum], "cross_entropy").result())
    data = [sampled("ppo", datum, lp)]
    config = {"clip_low_threshold": 0.95, "clip_high_threshold": 1.5}
    output = run.forward(data, "ppo", loss_fn_config=config).result()
    value, _ = clipped(RATIOS, 0.95, 1.5)
    assert abs(value - clipped(RATIOS)[0]) > 0.1
    assert output.metrics["loss:sum"] == pytest.approx(value, rel=1e-4)


@pytest.mark.parametrize(
    ("name", "config", "changes", "named"),
    [
        ("stable_reinforce", {}, {}, "stable_reinforce.*supported: cispo, cross_entropy, dro, gs"),
        ("ppo", {"epsilon": 0.2}, {}, "no setting 'epsilon'; its settings: clip_high_threshold, c"),
        ("ppo", {"clip_low_threshold": math.nan}, {}, "'clip_low_threshold'.* nan"),
        ("cispo", {"clip_high_threshold": 0.2}, {}, "'clip_high_threshold'.* 0.2; .* from 1 "),
        ("dro", {"beta": -1.0}, {}, "'beta'.* -1.0"),
        ("ppo", {}, {"advantages": np.full(7, np.nan)}, "advantages.*nan"),
        ("ppo", {}, {"weights": np.ones(7)}, "weights, which 'ppo' does not use"),
        ("gspo", {}, {"sequence_ratio_mask": MASK / 2}, "sequence_ratio_mask.* is 0.5"),
        ("importance_sampling", {}, {"logprobs": np.full(7, -1e5)}, "not finite"),
    ],
)
def test_what_a_loss_does_not_take_is_refused_and_the_run_goes_on(
    make_run, name, config, changes, named
):
    run = make_run()
    (datum,) = batch_of(1, seed=8)
    data = [sampled(name, datum, np.full(7, -3.0), **changes)]
    with pytest.raises(tinker.RequestFailedError, match=named) as caught:
        run.forward_backward(data, name, loss_fn_config=config).result()
    assert caught.value.category == "user"
    with pytest.raises(tinker.RequestFailedError):  # its window holds a failed batch
        run.optim_step(ADAM).result()
    train(run, [0])


def test_soft_targets_belong_to_cross_entropy_alone(run):
    targets = np.ones((7, 2), np.int64)
    datum = tinker.Datum(
        model_input=batch_of(1)[0].model_input,
        loss_fn_inputs={
            "target_tokens": targets,
            "logprobs": np.zeros((7, 2), np.float32),
            "advantages": np.ones((7, 2), np.float32),
        },
    )
    with pytest.raises(tinker.RequestFailedError, match="one target per position"):
        run.forward([datum], "ppo").result()


def test_sparse_soft_targets_train_as_dense_ones_do(make_run, rest):
    import torch

    targets, weights = torch.zeros(7, 16, dtype=torch.int64), torch.zeros(7, 16)
    targets[:, 0], weights[2:, 0] = torch.arange(3, 10), 0.7
    targets[3, 5], weights[3, 5] = 40, 0.3
    adapters = []
    for dense in (False, True):
        inputs = {"target_tokens": targets, "weights": weights}
        if dense:
            inputs = {name: tensor.numpy() for name, tensor in inputs.items()}
        datum = tinker.Datum(model_input=batch_of(1)[0].model_input, loss_fn_inputs=inputs)
        is_sparse = datum.loss_fn_inputs["weights"].sparse_crow_indices is not None
        assert is_sparse != dense
        run = make_run()
        run.forward_backward([datum], "cross_entropy")
        run.optim_step(PROPORTIONAL).result()
        adapters.append(adapter_of(run, rest, "a"))
    assert_equal_adapters(*adapters)


def test_a_run_whose_custom_loss_raised_goes_on_from_its_checkpoint(make_run, service, rest):
    run, untouched = make_run(), make_run()
    path = run.save_state("start").result().path

    def raising(data, logprobs):
        raise ZeroDivisionError("a fault in the loss")

    with pytest.raises(ZeroDivisionError, match="a fault in the loss"):
        run.forward_backward_custom(batch_of(1), raising).result()
    # The SDK itself gives that TrainingClient up (0.38.0); the service and its others go on.
    again = service.create_training_client_from_state(path).result()
    for one in (untouched, again):
        train(one, [3])
    assert_equal_adapters(adapter_of(untouched, rest, "a"), adapter_of(again, rest, "a"))
