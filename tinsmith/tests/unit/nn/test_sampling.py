from __future__ import annotations

import numpy as np
import pytest
import torch
from tinsmith.nn.sampling import derive_seed, draw, likeliest, sample, uniforms
from torch import Tensor

DRAWS = 20_000


def draws(
    logits: list[float], temperature: float = 1.0, top_k: int = -1, top_p: float = 1.0
) -> Tensor:
    """Shares of the tokens over many draws of one distribution."""
    seeds = np.full(DRAWS, derive_seed(7, 0), dtype=np.uint64)
    uniform = uniforms(seeds, np.arange(DRAWS))
    tokens = sample(
        torch.tensor(logits).expand(DRAWS, len(logits)),
        torch.full((DRAWS,), temperature),
        torch.full((DRAWS,), top_k),
        torch.full((DRAWS,), top_p),
        torch.from_numpy(uniform),
    )
    return tokens.bincount(minlength=len(logits)) / DRAWS


LOGITS = [0.3, 2.0, -1.0, 1.5, 0.0]


def assert_shares(got: Tensor, want: Tensor) -> None:
    # Five standard errors of a share.
    bound = 5 * (want * (1 - want) / DRAWS).sqrt()
    assert ((got - want).abs() <= bound).all(), (got, want)


@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.0])
def test_shares_follow_the_tempered_softmax(temperature: float) -> None:
    want = (torch.tensor(LOGITS) / temperature).softmax(0)
    assert_shares(draws(LOGITS, temperature), want)


def test_top_k_leaves_the_k_likeliest() -> None:
    p = torch.tensor(LOGITS).softmax(0)
    want = torch.where(torch.tensor([False, True, False, True, False]), p, 0.0)
    assert_shares(draws(LOGITS, top_k=2), want / want.sum())


def test_top_p_leaves_the_fewest_likeliest_that_reach_it() -> None:
    p = torch.tensor([0.5, 0.3, 0.15, 0.05])
    kept = torch.tensor([0.5, 0.3, 0.0, 0.0])
    assert_shares(draws(p.log().tolist(), top_p=0.6), kept / kept.sum())
    assert_shares(draws(p.log().tolist(), top_p=0.01), torch.tensor([1.0, 0, 0, 0]))


def test_top_p_counts_what_temperature_and_top_k_have_left() -> None:
    # After top-k of 3 the first two hold 0.84 of the weight, so 0.82 needs no third.
    p = torch.tensor([0.5, 0.3, 0.15, 0.05])
    kept = torch.tensor([0.5, 0.3, 0.0, 0.0])
    assert_shares(draws(p.log().tolist(), top_k=3, top_p=0.82), kept / kept.sum())


def test_the_ends_of_the_unit_interval_pick_tokens_that_have_weight() -> None:
    logits = torch.tensor([[-torch.inf, 1.0, 2.0, -torch.inf]]).expand(2, 4)
    ones, off = torch.ones(2), torch.full((2,), -1)
    uniform = torch.tensor([0.0, 1.0 - 2.0**-53], dtype=torch.float64)
    assert sample(logits, ones, off, ones, uniform).tolist() == [1, 2]


def test_each_row_has_its_own_settings() -> None:
    logits = torch.tensor(LOGITS).expand(3, 5)
    tokens = sample(
        logits,
        torch.tensor([1e-4, 1.0, 1.0]),
        torch.tensor([-1, 1, -1]),
        torch.tensor([1.0, 1.0, 1e-6]),
        torch.tensor([0.9, 0.9, 0.9], dtype=torch.float64),
    )
    assert tokens.tolist() == [1, 1, 1]


def test_greedy_takes_the_lowest_id_among_equals() -> None:
    tokens, _ = likeliest(torch.tensor([[0.0, 3.0, 3.0], [1.0, 0.0, 1.0]]))
    assert tokens.tolist() == [1, 0]


def test_uniforms_are_uniform_over_seeds_and_steps() -> None:
    seeds = np.array([derive_seed(seed, 0) for seed in range(2000)], dtype=np.uint64)
    for numbers in (
        uniforms(seeds, np.zeros(2000, dtype=np.int64)),
        uniforms(np.full(2000, seeds[0]), np.arange(2000)),
    ):
        assert (numbers >= 0).all() and (numbers < 1).all()
        counts = np.histogram(numbers, bins=20, range=(0, 1))[0]
        # Chi-square with 19 degrees of freedom: above 50 one time in 10,000.
        assert ((counts - 100) ** 2 / 100).sum() < 50


def test_seeds_of_samples_differ_and_any_integer_is_one() -> None:
    seeds = {derive_seed(seed, i) for seed in (0, 1, -1, 2**63, 2**70 + 2) for i in range(50)}
    assert len(seeds) == 5 * 50
    assert all(0 <= seed < 2**64 for seed in seeds)


@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.0])
def test_many_draws_of_one_distribution_follow_the_tempered_softmax(temperature: float) -> None:
    logits = torch.tensor([LOGITS, LOGITS[::-1]])
    seeds = np.array([derive_seed(7, -1 - k) for k in range(DRAWS)], dtype=np.uint64)
    uniform = np.stack([uniforms(seeds, np.full(DRAWS, position)) for position in (1, 2)])
    tokens = draw(logits, temperature, torch.from_numpy(uniform))

    assert tokens.shape == (2, DRAWS)
    for row, want in zip(tokens, (logits / temperature).softmax(1), strict=True):
        assert_shares(row.bincount(minlength=len(LOGITS)) / DRAWS, want)


def test_many_draws_at_temperature_0_are_the_likeliest_token() -> None:
    tokens = draw(torch.tensor([LOGITS, LOGITS[::-1]]), 0.0, torch.zeros(2, 3))
    assert tokens.tolist() == [[1] * 3, [3] * 3]
