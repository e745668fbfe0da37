"""What sequences have in common is computed once, and nobody can tell from the answers."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from numpy.typing import NDArray
from tinsmith.domain.ops import LoraConfig, Sample, SamplingParams
from tinsmith.domain.outcomes import Sampled, Succeeded
from tinsmith.engine.adapter import AdapterState, FrozenAdapter
from tinsmith.engine.base_model import BaseModel
from tinsmith.engine.sampler import Sampler
from tinsmith.nn.kv_cache import BLOCK

Prompt = NDArray[np.int32]


def tokens(seed: int, length: int) -> Prompt:
    return np.random.default_rng(seed).integers(3, 97, length).astype(np.int32)


def ask(prompt: Prompt, max_tokens: int = 6, **options: object) -> Sample:
    params = SamplingParams(max_tokens=max_tokens, temperature=0.0, stop_at_eos=False)
    return Sample(prompt, params, **options)  # type: ignore[arg-type]


def drain(sampler: Sampler) -> dict[str, Sampled]:
    found: dict[str, Sampled] = {}
    while sampler.has_work:
        for request_id, outcome in sampler.step():
            assert isinstance(outcome, Succeeded) and isinstance(outcome.result, Sampled)
            found[request_id] = outcome.result
    return found


def alone(base: BaseModel, sample: Sample, adapter: FrozenAdapter | None = None) -> Sampled:
    sampler = Sampler(base)
    sampler.add("x", sample, adapter)
    return drain(sampler)["x"]


def assert_same(result: Sampled, wanted: Sampled) -> None:
    for ours, theirs in zip(result.sequences, wanted.sequences, strict=True):
        assert ours.tokens.tolist() == theirs.tokens.tolist()
        np.testing.assert_allclose(ours.logprobs, theirs.logprobs, atol=1e-4)
    if wanted.prompt_logprobs is not None:
        np.testing.assert_allclose(result.prompt_logprobs, wanted.prompt_logprobs, atol=1e-4)


@pytest.fixture
def read(tiny_qwen3: BaseModel) -> object:
    """The number of tokens that each pass has read."""
    passes: list[int] = []
    hook = tiny_qwen3.model.get_input_embeddings().register_forward_pre_hook(
        lambda _, args: passes.append(args[0].numel())
    )
    yield passes
    hook.remove()


def test_prompts_of_one_pass_share_their_beginning(tiny_qwen3: BaseModel, read: list[int]) -> None:
    head, sampler = tokens(0, 2 * BLOCK), Sampler(tiny_qwen3)
    prompts = [np.concatenate([head, tokens(seed, 5)]) for seed in (1, 2, 3)]
    for number, prompt in enumerate(prompts):
        sampler.add(str(number), ask(prompt), None)
    found = drain(sampler)

    assert read[0] == 2 * BLOCK + 3 * 5
    assert [found[str(i)].prompt_cache_hit_tokens for i in range(3)] == [0, 2 * BLOCK, 2 * BLOCK]
    assert sampler.counts.prompt_tokens == 3 * len(prompts[0])
    assert sampler.counts.cached_prompt_tokens == 4 * BLOCK
    for number, prompt in enumerate(prompts):
        assert_same(found[str(number)], alone(tiny_qwen3, ask(prompt)))


def test_an_answer_is_found_again_by_the_prompt_that_goes_on_from_it(
    tiny_qwen3: BaseModel, read: list[int]
) -> None:
    sampler, first = Sampler(tiny_qwen3), tokens(0, 10)
    sampler.add("first", ask(first, max_tokens=2 * BLOCK), None)
    answer = drain(sampler)["first"].sequences[0].tokens
    second = np.concatenate([first, answer, tokens(1, 3)])
    read.clear()
    sampler.add("second", ask(second), None)
    found = drain(sampler)["second"]

    assert found.prompt_cache_hit_tokens == 2 * BLOCK
    assert read[0] == len(second) - 2 * BLOCK
    assert_same(found, alone(tiny_qwen3, ask(second)))


def test_scored_positions_are_computed_although_they_are_in_the_cache(
    tiny_qwen3: BaseModel, read: list[int]
) -> None:
    prompt, sampler = tokens(0, 3 * BLOCK), Sampler(tiny_qwen3)
    sampler.add("warm", ask(prompt), None)
    drain(sampler)
    for last_n, num_read in ((None, 3 * BLOCK), (BLOCK, 2 * BLOCK), (BLOCK - 1, BLOCK)):
        read.clear()
        sample = ask(
            prompt, prompt_logprobs=True, prompt_logprobs_last_n=last_n, topk_prompt_logprobs=2
        )
        sampler.add("scored", sample, None)
        found = drain(sampler)["scored"]
        assert read[0] == num_read
        assert_same(found, alone(tiny_qwen3, sample))


def test_a_long_prompt_is_read_in_parts_between_which_others_go_on(
    tiny_qwen3: BaseModel, read: list[int]
) -> None:
    sampler = Sampler(tiny_qwen3, prefill_tokens=10)
    samples = {
        "short": ask(tokens(0, 4), max_tokens=8),
        "long": ask(tokens(1, 45), prompt_logprobs=True, topk_prompt_logprobs=3, num_samples=2),
        "last": ask(tokens(2, 4)),
    }
    for name, sample in samples.items():
        sampler.add(name, sample, None)
    found = drain(sampler)

    # Four and six, then the short one's next token after each ten of the long one.
    assert read[:7] == [10, 1, 10, 1, 10, 1, 10]
    for name, sample in samples.items():
        assert_same(found[name], alone(tiny_qwen3, sample))
    wanted = alone(tiny_qwen3, samples["long"]).topk_prompt_logprobs
    top = found["long"].topk_prompt_logprobs
    assert top is not None and wanted is not None
    assert top.token_ids.tolist() == wanted.token_ids.tolist()


def test_nothing_is_shared_between_adapters_or_owners(
    tiny_qwen3: BaseModel, trained_adapter: Callable[..., AdapterState]
) -> None:
    adapters = [
        trained_adapter(tiny_qwen3, LoraConfig(4, seed)).frozen(tiny_qwen3.dtype) for seed in (0, 1)
    ]
    prompt, sampler = tokens(0, 40), Sampler(tiny_qwen3)
    asked = [(None, "a"), (adapters[0], "a"), (adapters[1], "a"), (None, "b"), (adapters[0], "b")]
    for number, (adapter, owner) in enumerate(asked):
        sampler.add(str(number), ask(prompt), adapter, owner)
    found = drain(sampler)
    for number, (adapter, _) in enumerate(asked):
        assert found[str(number)].prompt_cache_hit_tokens == 0
        assert_same(found[str(number)], alone(tiny_qwen3, ask(prompt), adapter))
    for number, (adapter, owner) in enumerate(asked):
        sampler.add(str(number), ask(prompt), adapter, owner)
    again = drain(sampler)
    assert [again[str(i)].prompt_cache_hit_tokens for i in range(5)] == [2 * BLOCK] * 5
    for number, (adapter, _) in enumerate(asked):
        assert_same(again[str(number)], alone(tiny_qwen3, ask(prompt), adapter))


@pytest.mark.parametrize("num_blocks", [3, 4, 6, 9])
def test_sequences_that_had_to_make_room_answer_as_if_alone(
    tiny_qwen3: BaseModel, num_blocks: int
) -> None:
    sampler = Sampler(
        tiny_qwen3,
        max_cache_bytes=num_blocks * BLOCK * tiny_qwen3.cache_bytes_per_token,
        prefill_tokens=24,
    )
    samples = {
        str(seed): Sample(
            tokens(seed, 6 + 5 * seed),
            SamplingParams(max_tokens=20, temperature=1.0, seed=seed, stop_at_eos=False),
            num_samples=1 + seed % 2,
            prompt_logprobs=True,
            topk_sample_logprobs=2,
        )
        for seed in range(5)
    }
    for name, sample in samples.items():
        sampler.add(name, sample, None)
    found = drain(sampler)

    assert sampler.counts.put_back > 0
    num_prompt_tokens = sum(len(one.prompt) * one.num_samples for one in samples.values())
    assert sampler.counts.prompt_tokens == num_prompt_tokens
    for name, sample in samples.items():
        assert found[name].prompt_cache_hit_tokens < len(sample.prompt)
    for name, sample in samples.items():
        wanted = alone(tiny_qwen3, sample)
        assert_same(found[name], wanted)
        for ours, theirs in zip(found[name].sequences, wanted.sequences, strict=True):
            assert ours.topk is not None and theirs.topk is not None
            assert ours.topk.token_ids.tolist() == theirs.topk.token_ids.tolist()


def test_every_block_comes_back(tiny_qwen3: BaseModel) -> None:
    sampler = Sampler(tiny_qwen3, prefill_tokens=20)
    for number in range(4):
        sampler.add(str(number), ask(tokens(number % 2, 30), num_samples=2), None)
    for _ in range(5):
        sampler.step()
    sampler.cancel({"1", "3"})
    drain(sampler)
    assert sampler.num_blocks_used == 0
