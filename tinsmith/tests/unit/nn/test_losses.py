"""Losses against their formulas, written once more as loops over numbers of double precision."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from tinsmith.nn.losses import DATUM, LOSSES
from torch import Tensor

LENGTHS = (3, 5, 1)
DATUM_N = torch.repeat_interleave(torch.arange(len(LENGTHS)), torch.tensor(LENGTHS))
# Inside, above and below the thresholds of 0.8 and 1.2, far away too; with each sign of advantage.
LOG_RATIOS = [0.1, 0.5, -0.9, -0.3, 0.05, 2.0, -2.5, 0.18, 0.3]
ADVANTAGES = [1.5, 0.7, 1.1, -0.6, 0.0, -1.2, -0.4, 2.0, 0.9]
POLICY_LOSSES = sorted(LOSSES.keys() - {"cross_entropy"})
CLIPPED = ["ppo", "gspo"]


def case(dtype: torch.dtype = torch.float64) -> tuple[Tensor, dict[str, Tensor]]:
    generator = torch.Generator().manual_seed(0)
    logprobs = -3 * torch.rand(9, 1, generator=generator, dtype=torch.float64)
    inputs = {
        "logprobs": logprobs - torch.tensor(LOG_RATIOS, dtype=torch.float64)[:, None],
        "advantages": torch.tensor(ADVANTAGES, dtype=torch.float64)[:, None],
        "sequence_ratio_mask": torch.tensor([[0.0], [1], [1], [1], [1], [0], [1], [1], [1]]),
    }
    inputs = {name: tensor.to(dtype) for name, tensor in inputs.items()}
    return logprobs.to(dtype), {**inputs, DATUM: DATUM_N}


def by_hand(
    name: str, lp: list[float], q: list[float], a: list[float], mask: list[float], held: list[float]
) -> list[float]:
    """The losses of one datum's tokens; `held` stands for lp where the gradient is stopped."""

    def clamped(ratio: float) -> float:
        return max(0.8, min(1.2, ratio))

    masked = [t for t in range(len(lp)) if mask[t] == 1]
    mean = math.fsum(held[t] - q[t] for t in masked) / len(masked) if masked else 0.0
    losses = []
    for t in range(len(lp)):
        ratio, fixed = math.exp(lp[t] - q[t]), math.exp(held[t] - q[t])
        of_datum = math.exp(mean + lp[t] - held[t])
        losses.append(
            {
                "importance_sampling": -ratio * a[t],
                "ppo": -min(ratio * a[t], clamped(ratio) * a[t]),
                "cispo": -clamped(fixed) * lp[t] * a[t],
                "dro": -(lp[t] * a[t] - 0.05 / 2 * (lp[t] - q[t]) ** 2),
                "gspo": -min(of_datum * a[t], clamped(of_datum) * a[t]),
            }[name]
        )
    return losses


def all_by_hand(name: str, lp: Tensor, inputs: dict[str, Tensor], held: Tensor) -> list[float]:
    columns = [
        tensor.double().flatten().split(LENGTHS)
        for tensor in (
            lp,
            inputs["logprobs"],
            inputs["advantages"],
            inputs["sequence_ratio_mask"],
            held,
        )
    ]
    return [
        loss
        for datum in zip(*columns, strict=True)
        for loss in by_hand(name, *(part.tolist() for part in datum))
    ]


def gradient(name: str, logprobs: Tensor, inputs: dict[str, Tensor]) -> Tensor:
    leaf = logprobs.clone().requires_grad_()
    loss = LOSSES[name]
    loss.per_token(leaf, inputs, loss.settings_of({})).sum().backward()
    assert leaf.grad is not None
    return leaf.grad[:, 0]


@pytest.mark.parametrize("name", POLICY_LOSSES)
@pytest.mark.parametrize(("dtype", "rtol"), [(torch.float64, 1e-12), (torch.float32, 1e-5)])
def test_a_loss_is_its_formula(name: str, dtype: torch.dtype, rtol: float) -> None:
    logprobs, inputs = case(dtype)
    loss = LOSSES[name]
    ours = loss.per_token(logprobs, inputs, loss.settings_of({}))
    assert ours.dtype == dtype
    np.testing.assert_allclose(
        ours, all_by_hand(name, logprobs, inputs, logprobs), rtol=rtol, atol=1e-6
    )


@pytest.mark.parametrize("name", POLICY_LOSSES)
def test_a_gradient_is_what_differences_of_the_formula_say(name: str) -> None:
    logprobs, inputs = case()
    ours, step = gradient(name, logprobs, inputs), 1e-6
    for n in range(len(logprobs)):
        up, down = logprobs.clone(), logprobs.clone()
        up[n], down[n] = up[n] + step, down[n] - step
        rise = math.fsum(all_by_hand(name, up, inputs, logprobs))
        fall = math.fsum(all_by_hand(name, down, inputs, logprobs))
        assert float(ours[n]) == pytest.approx((rise - fall) / (2 * step), rel=1e-6, abs=1e-8)


@pytest.mark.parametrize("name", CLIPPED)
@pytest.mark.parametrize(
    ("ratio", "advantage", "moves"),
    [
        (1.2 - 1e-6, 1.0, True),
        (1.2 + 1e-6, 1.0, False),
        (1.2 + 1e-6, -1.0, True),
        (0.8 - 1e-6, -1.0, False),
        (0.8 + 1e-6, -1.0, True),
        (0.8 - 1e-6, 1.0, True),
    ],
)
def test_beyond_a_threshold_only_the_way_back_has_a_gradient(
    name: str, ratio: float, advantage: float, moves: bool
) -> None:
    logprobs = torch.tensor([[-1.0]], dtype=torch.float64)
    inputs = {
        "logprobs": logprobs - math.log(ratio),
        "advantages": torch.full_like(logprobs, advantage),
        "sequence_ratio_mask": torch.ones_like(logprobs),
        DATUM: torch.zeros(1, dtype=torch.int64),
    }
    slope = float(gradient(name, logprobs, inputs))
    assert slope == (pytest.approx(-ratio * advantage) if moves else 0.0)


def test_cispo_keeps_a_bounded_gradient_beyond_its_thresholds() -> None:
    logprobs, inputs = case()
    slopes = gradient("cispo", logprobs, inputs)
    clamped = np.clip(np.exp(LOG_RATIOS), 0.8, 1.2)
    np.testing.assert_allclose(slopes, -clamped * np.array(ADVANTAGES), rtol=1e-12)


@pytest.mark.parametrize(
    ("name", "setting"),
    [(name, setting) for name, loss in LOSSES.items() for setting in loss.settings],
)
def test_every_setting_of_a_loss_has_an_effect(name: str, setting: str) -> None:
    logprobs, inputs = case()
    loss = LOSSES[name]
    changed = {"clip_low_threshold": 0.95, "clip_high_threshold": 1.01, "beta": 0.5}[setting]
    first, second = (
        loss.per_token(logprobs, inputs, loss.settings_of(config)).sum()
        for config in ({}, {setting: changed})
    )
    assert abs(float(first - second)) > 1e-3


@pytest.mark.parametrize("name", ["importance_sampling", "ppo", "cispo", "gspo"])
def test_without_an_advantage_even_an_absurd_logprob_does_nothing(name: str) -> None:
    logprobs, inputs = case(torch.float32)
    inputs["logprobs"][4], inputs["sequence_ratio_mask"][4] = -1e30, 0.0
    loss = LOSSES[name]
    value = loss.per_token(logprobs, inputs, loss.settings_of({}))
    slopes = gradient(name, logprobs, inputs)
    assert value.isfinite().all() and value[4] == 0
    assert slopes.isfinite().all() and slopes[4] == 0


@pytest.mark.parametrize("name", CLIPPED)
def test_a_ratio_that_overflows_is_clipped_like_any_other(name: str) -> None:
    logprobs, inputs = case(torch.float32)
    inputs["logprobs"][8] = -500.0  # the last datum, with a positive advantage
    loss = LOSSES[name]
    value = loss.per_token(logprobs, inputs, loss.settings_of({}))
    assert float(value[8]) == pytest.approx(-1.2 * ADVANTAGES[8])
    assert float(gradient(name, logprobs, inputs)[8]) == 0.0


def test_a_datum_without_masked_tokens_has_a_ratio_of_one() -> None:
    logprobs, inputs = case()
    inputs["sequence_ratio_mask"][:3] = 0
    gspo = LOSSES["gspo"]
    value = gspo.per_token(logprobs, inputs, gspo.settings_of({}))
    np.testing.assert_allclose(value[:3], -np.array(ADVANTAGES[:3]))
    np.testing.assert_allclose(
        value, all_by_hand("gspo", logprobs, inputs, logprobs), rtol=1e-12, atol=1e-15
    )


def test_cross_entropy_is_a_weighted_sum_over_soft_targets_too() -> None:
    logprobs = torch.tensor([[-1.0, -2.0], [-3.0, -4.0]])
    weights = torch.tensor([[0.5, 0.25], [-1.0, 0.0]])
    loss = LOSSES["cross_entropy"].per_token(logprobs, {"weights": weights}, {})
    torch.testing.assert_close(loss, torch.tensor([0.5 + 0.5, -3.0]))


def test_a_table_entry_speaks_of_its_own_inputs_and_settings() -> None:
    for name, loss in LOSSES.items():
        assert loss.name == name
        named = {loss.gate, loss.scored, *loss.masks, *loss.forward_optional} - {None}
        assert named <= loss.inputs
        for setting in loss.settings.values():
            assert setting.low <= setting.default <= setting.high


@pytest.mark.parametrize("name", sorted(LOSSES))
def test_where_the_gate_is_zero_no_gradient_comes_from(name: str) -> None:
    logprobs, inputs = case()
    inputs["weights"] = inputs["advantages"]
    closed = inputs["advantages"][:, 0] == 0
    assert closed.any()
    slopes = gradient(name, logprobs, inputs)
    assert bool((slopes[closed] == 0).all()) == (LOSSES[name].gate is not None)
    assert (slopes[~closed] != 0).any()
