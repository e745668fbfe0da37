"""Logprobs of named tokens and draws at every position of a prompt, through the unmodified SDK."""

from __future__ import annotations

import numpy as np
import pytest
import tinker
import torch
from sdk_steps import MODEL

TOKENS = [84, 104, 101, 32, 99, 97, 116, 32, 115, 97, 116]
NUM_ROWS = len(TOKENS) - 1


@pytest.fixture(scope="module")
def sampler(service) -> tinker.SamplingClient:
    return service.create_sampling_client(base_model=MODEL).result()


def score(sampler: tinker.SamplingClient, **options) -> tinker.SampleResponse:
    params = tinker.SamplingParams(max_tokens=1, **options.pop("params", {}))
    prompt = tinker.ModelInput.from_ints(TOKENS)
    return sampler.sample(prompt, 1, params, **options).result()


def training_logprobs(run: tinker.TrainingClient, ids: np.ndarray) -> np.ndarray:
    """Of the same tokens, by the forward pass of a run that has not been trained."""
    datum = tinker.Datum(
        model_input=tinker.ModelInput.from_ints(TOKENS[:-1]),
        loss_fn_inputs={
            "target_tokens": ids.astype(np.int64),
            "weights": np.ones(ids.shape, np.float32),
        },
    )
    output = run.forward([datum], "cross_entropy").result()
    return output.loss_fn_outputs[0]["logprobs"].to_numpy()


def test_named_tokens_are_scored_as_training_scores_them(sampler, run):
    ids = np.random.default_rng(0).integers(1, 250, (NUM_ROWS, 3))
    wanted = training_logprobs(run, ids)
    ids[np.random.default_rng(1).random(ids.shape) < 0.3] = -1
    target = tinker.TensorData.from_torch(torch.from_numpy(ids))

    scored = score(sampler, target_prompt_logprobs=target).target_prompt_logprobs

    assert scored.sparse_crow_indices is None
    np.testing.assert_allclose(scored.to_numpy(), np.where(ids == -1, 0, wanted), atol=1e-4)


def test_a_few_named_tokens_travel_as_sparse_rows_both_ways(sampler):
    ids = torch.full((NUM_ROWS, 50), -1)
    ids[-1, 7], ids[3, 0] = 115, TOKENS[4]
    target = tinker.TensorData.from_torch_sparse(ids, pad_value=-1)
    assert target.sparse_crow_indices is not None

    response = score(sampler, target_prompt_logprobs=target, include_prompt_logprobs=True)

    scored = response.target_prompt_logprobs
    assert scored.sparse_crow_indices == target.sparse_crow_indices
    assert scored.sparse_col_indices == target.sparse_col_indices
    table = scored.to_torch()
    assert table.count_nonzero() == 2
    assert float(table[3, 0]) == pytest.approx(response.prompt_logprobs[4], abs=1e-4)


def test_the_next_token_of_a_prefix_is_scored_without_reading_it_again(sampler):
    prompt = np.random.default_rng(2).integers(1, 250, 50).tolist()
    params = tinker.SamplingParams(max_tokens=1)
    sampler.sample(tinker.ModelInput.from_ints(prompt), 1, params).result()
    ids = torch.full((len(prompt) - 1, 4), -1)
    ids[-1] = torch.tensor([1, 2, 3, 4])
    response = sampler.sample(
        tinker.ModelInput.from_ints(prompt),
        1,
        params,
        target_prompt_logprobs=tinker.TensorData.from_torch_sparse(ids, pad_value=-1),
    ).result()
    assert response.prompt_cache_hit_tokens == 48
    assert (response.target_prompt_logprobs.to_torch()[-1] < 0).all()


def test_draws_come_for_every_position_with_the_models_logprobs(sampler, run):
    def drawn(**params) -> tuple[np.ndarray, np.ndarray]:
        alternatives = score(sampler, prompt_alt_tokens_k=4, params=params).prompt_alt_tokens
        return alternatives.tokens.to_numpy(), alternatives.logprobs.to_numpy()

    tokens, logprobs = drawn(seed=1, temperature=1.0)
    assert tokens.shape == logprobs.shape == (NUM_ROWS, 4)
    np.testing.assert_allclose(logprobs, training_logprobs(run, tokens), atol=1e-4)
    assert drawn(seed=1, temperature=1.0)[0].tolist() == tokens.tolist()
    assert drawn(seed=2, temperature=1.0)[0].tolist() != tokens.tolist()
    likeliest, _ = drawn(temperature=0.0)
    assert (likeliest == likeliest[:, :1]).all()


def test_targets_that_make_no_sense_are_refused(sampler):
    for ids, named in (
        (np.full((NUM_ROWS - 1, 1), 5), "rows"),
        (np.full((NUM_ROWS, 1), -1), "names no token"),
        (np.full((NUM_ROWS, 1), 10**6), "token id 1000000"),
    ):
        target = tinker.TensorData.from_torch(torch.from_numpy(ids))
        with pytest.raises(tinker.BadRequestError, match=named):
            score(sampler, target_prompt_logprobs=target)
