"""Targets and draws of a prompt, against what training computes of the same tokens."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from tinsmith.domain.datum import Datum
from tinsmith.domain.matrix import Matrix
from tinsmith.domain.ops import ForwardBackward, LoraConfig, Sample, SamplingParams
from tinsmith.domain.outcomes import Sampled, Succeeded
from tinsmith.engine.adapter import AdapterState, FrozenAdapter
from tinsmith.engine.base_model import BaseModel
from tinsmith.engine.prompt_scores import prompt_scores_of
from tinsmith.engine.sampler import Sampler
from tinsmith.engine.trainer import Trainer
from tinsmith.engine.training_state import TrainingState
from tinsmith.nn.kv_cache import BLOCK
from tinsmith.nn.logprobs import CHUNK_ELEMENTS, OutputLayer

VOCAB = 97
LENGTH = 45


def tokens(seed: int, length: int = LENGTH) -> NDArray[np.int32]:
    return np.random.default_rng(seed).integers(3, VOCAB, length).astype(np.int32)


def ask(prompt: NDArray[np.int32], **options: object) -> Sample:
    params = {"max_tokens": 2, "temperature": 0.0, "stop_at_eos": False, "seed": 5}
    params |= {name: options.pop(name) for name in list(options) if name in params}
    return Sample(prompt, SamplingParams(**params), **options)  # type: ignore[arg-type]


def answer(sampler: Sampler, sample: Sample, adapter: FrozenAdapter | None = None) -> Sampled:
    sampler.add("x", sample, adapter)
    while sampler.has_work:
        for _, outcome in sampler.step():
            assert isinstance(outcome, Succeeded) and isinstance(outcome.result, Sampled)
            return outcome.result
    raise AssertionError


@pytest.fixture
def state(tiny_qwen3: BaseModel, trained_adapter: Callable[..., AdapterState]) -> TrainingState:
    return TrainingState(trained_adapter(tiny_qwen3, LoraConfig(4, 0)))


@pytest.fixture
def adapter(tiny_qwen3: BaseModel, state: TrainingState) -> FrozenAdapter:
    return state.adapter.frozen(tiny_qwen3.dtype)


@pytest.fixture
def all_logprobs(
    tiny_qwen3: BaseModel, state: TrainingState
) -> Callable[[NDArray[np.int32]], NDArray[np.float32]]:
    """prompt -> [len(prompt) - 1, vocabulary], by the trainer's forward pass."""

    def score(prompt: NDArray[np.int32]) -> NDArray[np.float32]:
        every = np.tile(np.arange(VOCAB), (len(prompt) - 1, 1))
        inputs = {"target_tokens": every, "weights": np.ones(every.shape, np.float32)}
        op = ForwardBackward((Datum(prompt[:-1], inputs),), "cross_entropy", forward_only=True)
        return Trainer(tiny_qwen3, state).forward_backward(op).logprobs[0]

    return score


def sparse(ids: NDArray[np.int64]) -> Matrix:
    """Without the cells of -1."""
    rows, columns = np.nonzero(ids != -1)
    starts = np.searchsorted(rows, np.arange(len(ids) + 1))
    return Matrix(ids.shape, ids[rows, columns], starts, columns)


def some_ids(first_row: int = 0) -> NDArray[np.int64]:
    """Half of the cells named, from a row on."""
    rng = np.random.default_rng(3)
    ids = rng.integers(0, VOCAB, (LENGTH - 1, 3))
    ids[rng.random(ids.shape) < 0.5] = -1
    ids[:first_row] = -1
    return ids


@pytest.mark.parametrize("prefill_tokens", [4096, 10], ids=["whole", "in parts"])
def test_targets_are_scored_as_training_scores_them(
    tiny_qwen3: BaseModel,
    adapter: FrozenAdapter,
    all_logprobs: Callable[..., NDArray[np.float32]],
    prefill_tokens: int,
) -> None:
    prompt, ids = tokens(0), some_ids()
    reference = all_logprobs(prompt)
    wanted = np.where(ids == -1, 0.0, np.take_along_axis(reference, ids.clip(0), axis=1))

    sampler = Sampler(tiny_qwen3, prefill_tokens=prefill_tokens)
    dense = Matrix(ids.shape, ids.ravel())
    found = answer(sampler, ask(prompt, target_prompt_logprobs=dense), adapter)
    scored = found.target_prompt_logprobs
    assert scored is not None and scored.row_starts is None and scored.shape == ids.shape
    assert scored.values.dtype == np.float32
    np.testing.assert_allclose(scored.values.reshape(ids.shape), wanted, atol=1e-4)

    listed = sparse(ids)
    found = answer(sampler, ask(prompt, target_prompt_logprobs=listed), adapter)
    scored = found.target_prompt_logprobs
    assert scored is not None and scored.columns is listed.columns
    np.testing.assert_allclose(scored.values, wanted[ids != -1], atol=1e-4)


def test_only_what_is_not_needed_comes_from_the_cache(
    tiny_qwen3: BaseModel, adapter: FrozenAdapter, all_logprobs: Callable[..., NDArray[np.float32]]
) -> None:
    prompt, sampler = tokens(1), Sampler(tiny_qwen3)
    answer(sampler, ask(prompt), adapter)
    reference = all_logprobs(prompt)
    # Row 2 * BLOCK is scored from the hidden state of token 2 * BLOCK, the first that is computed.
    for first_row, num_found in ((2 * BLOCK, 2 * BLOCK), (2 * BLOCK - 1, BLOCK), (0, 0)):
        ids = some_ids(first_row)
        ids[first_row, 0] = 7
        targets = sparse(ids)
        found = answer(
            sampler,
            ask(
                prompt,
                target_prompt_logprobs=targets,
                prompt_logprobs=True,
                prompt_logprobs_last_n=2,
            ),
            adapter,
        )
        assert found.prompt_cache_hit_tokens == num_found
        assert found.target_prompt_logprobs is not None and found.prompt_logprobs is not None
        np.testing.assert_allclose(
            found.target_prompt_logprobs.values,
            reference[targets.rows, targets.values],
            atol=1e-4,
        )
        assert np.isfinite(found.prompt_logprobs).tolist() == [False] * (LENGTH - 2) + [True] * 2
    drawn = answer(sampler, ask(prompt, prompt_alt_tokens_k=1), adapter)
    assert drawn.prompt_cache_hit_tokens == 0


def test_draws_come_with_the_models_own_logprobs_and_depend_on_the_seed_alone(
    tiny_qwen3: BaseModel, adapter: FrozenAdapter, all_logprobs: Callable[..., NDArray[np.float32]]
) -> None:
    prompt = tokens(2)
    reference = all_logprobs(prompt)

    def drawn(prefill_tokens: int = 4096, **options: object) -> NDArray[np.int32]:
        sampler = Sampler(tiny_qwen3, prefill_tokens=prefill_tokens)
        sample = ask(prompt, prompt_alt_tokens_k=4, **options)
        alternatives = answer(sampler, sample, adapter).prompt_alt_tokens
        assert alternatives is not None
        assert alternatives.token_ids.shape == alternatives.logprobs.shape == (LENGTH - 1, 4)
        np.testing.assert_allclose(
            alternatives.logprobs,
            np.take_along_axis(reference, alternatives.token_ids.astype(np.int64), axis=1),
            atol=1e-4,
        )
        return alternatives.token_ids

    first = drawn(temperature=1.0)
    assert drawn(temperature=1.0, prefill_tokens=10).tolist() == first.tolist()
    assert drawn(temperature=1.0, num_samples=3).tolist() == first.tolist()
    assert drawn(temperature=1.0, seed=6).tolist() != first.tolist()
    assert len({tuple(column) for column in first.T.tolist()}) == 4
    greedy = drawn(temperature=0.0)
    assert greedy.tolist() == np.tile(reference.argmax(axis=1)[:, None], 4).tolist()


def test_it_does_not_matter_how_many_positions_an_output_layer_takes_at_once() -> None:
    ids, generator = some_ids(), torch.Generator().manual_seed(0)
    hidden = torch.randn(LENGTH - 1, 8, generator=generator)
    weight = torch.randn(VOCAB, 8, generator=generator)
    sample = ask(
        tokens(3),
        temperature=1.0,
        prompt_logprobs=True,
        topk_prompt_logprobs=2,
        target_prompt_logprobs=sparse(ids),
        prompt_alt_tokens_k=3,
    )

    def results(at_once: int) -> list[NDArray[np.generic]]:
        output = OutputLayer(lambda h: h @ weight.T, CHUNK_ELEMENTS // at_once)
        scores = prompt_scores_of(sample)
        for score in scores:
            score.fill(output, hidden[score.first - 1 :], score.first)
        logprobs, top, targets, draws = (score.result for score in scores)
        return [
            logprobs,
            top.token_ids,
            top.logprobs,
            targets.values,
            draws.token_ids,
            draws.logprobs,
        ]

    for few, many in zip(results(7), results(1000), strict=True):
        np.testing.assert_allclose(few, many, atol=1e-5)


def test_a_prompt_of_one_token_has_no_place_to_draw_for(tiny_qwen3: BaseModel) -> None:
    found = answer(Sampler(tiny_qwen3), ask(tokens(0, 1), prompt_alt_tokens_k=2))
    assert found.prompt_alt_tokens is not None
    assert found.prompt_alt_tokens.token_ids.shape == (0, 2)
