"""The sampler against transformers' own generate, against the trainer, and against itself."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from beside_peft import in_peft
from numpy.typing import NDArray
from tinsmith.domain.datum import Datum
from tinsmith.domain.errors import InvalidInputError
from tinsmith.domain.ops import (
    AdamParams,
    ForwardBackward,
    LoraConfig,
    OptimStep,
    Sample,
    SamplingParams,
)
from tinsmith.domain.outcomes import Failed, FailureCategory, Sampled, StopReason, Succeeded
from tinsmith.engine.adapter import AdapterState, FrozenAdapter
from tinsmith.engine.base_model import BaseModel
from tinsmith.engine.sampler import Sampler
from tinsmith.engine.trainer import Trainer, TrainingSettings
from tinsmith.engine.training_state import TrainingState

ARCHITECTURES = ["qwen3", "qwen2_5", "llama", "smollm", "gemma2", "gemma3", "qwen3_moe"]
VOCAB_SIZE = 97
EOS = 1


def prompts(*lengths: int) -> list[NDArray[np.int32]]:
    rng = np.random.default_rng(5)
    return [rng.integers(3, VOCAB_SIZE, length).astype(np.int32) for length in lengths]


def ask(prompt: NDArray[np.int32], **options: object) -> Sample:
    """A greedy sample of 12 tokens that nothing stops, unless options say otherwise."""
    fields = SamplingParams.__dataclass_fields__
    params = {"max_tokens": 12, "temperature": 0.0, "stop_at_eos": False}
    params |= {name: value for name, value in options.items() if name in fields}
    rest = {name: value for name, value in options.items() if name not in fields}
    return Sample(prompt, SamplingParams(**params), **rest)  # type: ignore[arg-type]


def drain(
    sampler: Sampler, requests: Sequence[tuple[Sample, FrozenAdapter | None]]
) -> list[Sampled]:
    for number, (sample, adapter) in enumerate(requests):
        sampler.add(str(number), sample, adapter)
    results: dict[str, Sampled] = {}
    while sampler.num_waiting or sampler.num_active:
        for request_id, outcome in sampler.step():
            assert isinstance(outcome, Succeeded) and isinstance(outcome.result, Sampled)
            assert request_id not in results
            results[request_id] = outcome.result
    return [results[str(number)] for number in range(len(requests))]


def one(
    base: BaseModel, sample: Sample, adapter: FrozenAdapter | None = None, **options
) -> Sampled:
    return drain(Sampler(base, **options), [(sample, adapter)])[0]


def tokens_of(result: Sampled) -> list[list[int]]:
    return [sequence.tokens.tolist() for sequence in result.sequences]


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_greedy_text_equals_generate_with_the_peft_adapter(
    name: str,
    base_of: Callable[[str], BaseModel],
    model_dir: Callable[[str], Path],
    trained_adapter: Callable[..., AdapterState],
) -> None:
    base = base_of(name)
    adapter = trained_adapter(base, LoraConfig(rank=4, seed=2))
    reference = in_peft(model_dir(name), adapter)
    asked = prompts(7, 1, 20, 7)

    results = drain(
        Sampler(base), [(ask(prompt), adapter.frozen(torch.float32)) for prompt in asked]
    )

    for prompt, result in zip(asked, results, strict=True):
        ids = torch.from_numpy(prompt.astype(np.int64))[None]
        wanted = reference.generate(
            input_ids=ids,
            attention_mask=torch.ones_like(ids),
            max_new_tokens=12,
            do_sample=False,
            eos_token_id=None,
            pad_token_id=0,
        )
        assert tokens_of(result) == [wanted[0, len(prompt) :].tolist()]


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_sampled_and_prompt_logprobs_equal_the_trainers(
    name: str,
    base_of: Callable[[str], BaseModel],
    trained_adapter: Callable[..., AdapterState],
) -> None:
    base = base_of(name)
    adapter = trained_adapter(base, LoraConfig(rank=4, seed=2))
    asked = prompts(9, 4, 15)
    samples = [ask(p, temperature=1.5, top_k=20, seed=8, prompt_logprobs=True) for p in asked]

    results = drain(Sampler(base), [(sample, adapter.frozen(base.dtype)) for sample in samples])

    for prompt, result in zip(asked, results, strict=True):
        (sequence,) = result.sequences
        text = np.concatenate([prompt, sequence.tokens])
        datum = Datum(text[:-1], {"target_tokens": text[1:].astype(np.int64)})
        op = ForwardBackward((datum,), "cross_entropy", forward_only=True)
        (scored,) = Trainer(base, TrainingState(adapter)).forward_backward(op).logprobs
        assert result.prompt_logprobs is not None and np.isnan(result.prompt_logprobs[0])
        ours = np.concatenate([result.prompt_logprobs[1:], sequence.logprobs])
        # fp32 through two orders of summation; the figure of issue A.
        np.testing.assert_allclose(ours, scored, atol=1e-4)


def test_adapters_of_several_ranks_share_a_step_and_do_not_mix(
    tiny_qwen3: BaseModel, trained_adapter: Callable[..., AdapterState]
) -> None:
    configs = [LoraConfig(1, 0), LoraConfig(8, 1, train_mlp=False), LoraConfig(3, 2)]
    frozen = [trained_adapter(tiny_qwen3, lora).frozen(torch.float32) for lora in configs]
    asked = prompts(6, 11, 3, 6, 9, 4, 8)
    turns = [None, *frozen, frozen[1], None, frozen[0]]
    lengths = [12, 3, 12, 7, 9, 12, 5]  # rows leave in the middle of others
    samples = [ask(p, max_tokens=n) for p, n in zip(asked, lengths, strict=True)]

    together = drain(Sampler(tiny_qwen3), list(zip(samples, turns, strict=True)))

    for sample, adapter, result in zip(samples, turns, together, strict=True):
        alone = one(tiny_qwen3, sample, adapter)
        assert tokens_of(result) == tokens_of(alone)
        np.testing.assert_allclose(
            result.sequences[0].logprobs, alone.sequences[0].logprobs, atol=1e-4
        )


def test_requests_join_while_others_are_being_generated(tiny_qwen3: BaseModel) -> None:
    sampler, asked = Sampler(tiny_qwen3), prompts(6, 11, 3)
    results: dict[str, Sampled] = {}
    for number, prompt in enumerate(asked):
        sampler.add(str(number), ask(prompt), None)
        for _ in range(4):
            results |= {key: value.result for key, value in sampler.step()}  # type: ignore[union-attr]
    while sampler.num_active:
        results |= {key: value.result for key, value in sampler.step()}  # type: ignore[union-attr]

    for number, prompt in enumerate(asked):
        assert tokens_of(results[str(number)]) == tokens_of(one(tiny_qwen3, ask(prompt)))


@pytest.mark.parametrize(
    "limits",
    [{"max_active_sequences": 2}, {"prefill_tokens": 8}, {"max_cache_bytes": 1}],
    ids=["few_rows", "small_prefills", "no_cache_room"],
)
def test_limits_change_when_but_not_what(tiny_qwen3: BaseModel, limits: dict[str, int]) -> None:
    requests = [
        (ask(prompt, num_samples=3, temperature=1.0, seed=4), None) for prompt in prompts(6, 9)
    ]

    narrow = drain(Sampler(tiny_qwen3, **limits), requests)

    wide = drain(Sampler(tiny_qwen3), requests)
    assert [tokens_of(result) for result in narrow] == [tokens_of(result) for result in wide]


def test_num_active_never_exceeds_its_limit(tiny_qwen3: BaseModel) -> None:
    sampler = Sampler(tiny_qwen3, max_active_sequences=3)
    for number in range(4):
        sampler.add(str(number), ask(prompts(5)[0], num_samples=2), None)
    seen = set()
    while sampler.num_waiting or sampler.num_active:
        sampler.step()
        seen.add(sampler.num_active)
    assert max(seen) == 3


def test_a_prompt_is_read_once_for_all_its_samples_and_only_its_end_meets_the_vocabulary(
    tiny_qwen3: BaseModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    tokens_read, positions_projected = [], []
    hidden, logits = tiny_qwen3.hidden, tiny_qwen3.logits

    def counted_hidden(token_T: torch.Tensor, *rest: object, **options: object) -> torch.Tensor:
        tokens_read.append(len(token_T))
        return hidden(token_T, *rest, **options)  # type: ignore[arg-type]

    def counted_logits(hidden_NH: torch.Tensor, *rest: object) -> torch.Tensor:
        positions_projected.append(len(hidden_NH))
        return logits(hidden_NH, *rest)  # type: ignore[arg-type]

    monkeypatch.setattr(tiny_qwen3, "hidden", counted_hidden)
    monkeypatch.setattr(tiny_qwen3, "logits", counted_logits)
    one(tiny_qwen3, ask(prompts(9)[0], num_samples=3, max_tokens=2))

    assert tokens_read == [9, 3]
    assert positions_projected == [1, 3]


def test_a_seed_repeats_its_samples_and_they_differ_among_themselves(tiny_qwen3: BaseModel) -> None:
    (prompt,) = prompts(6)
    sample = ask(prompt, num_samples=4, temperature=1.0, seed=11)

    first, second = one(tiny_qwen3, sample), one(tiny_qwen3, sample)
    other = one(tiny_qwen3, ask(prompt, num_samples=4, temperature=1.0, seed=12))

    assert tokens_of(first) == tokens_of(second)
    assert len({tuple(tokens) for tokens in tokens_of(first)}) == 4
    assert tokens_of(first) != tokens_of(other)


def test_a_draw_depends_on_nothing_but_its_request(
    tiny_qwen3: BaseModel, trained_adapter: Callable[..., AdapterState]
) -> None:
    lora = [trained_adapter(tiny_qwen3, LoraConfig(2, n)).frozen(torch.float32) for n in range(2)]
    adapters = [lora[0], lora[1], lora[0], None, lora[1]]
    samples = [
        ask(prompt, temperature=1.0, seed=seed, max_tokens=20 - 3 * seed)
        for seed, prompt in enumerate(prompts(6, 9, 4, 2, 5))
    ]
    sampler, crowd = Sampler(tiny_qwen3), {}
    for number, (sample, adapter) in enumerate(zip(samples, adapters, strict=True)):
        sampler.add(str(number), sample, adapter)
        crowd |= dict(sampler.step())  # so that each is at another place in its answer
        crowd |= dict(sampler.step())
    while sampler.num_active:
        crowd |= dict(sampler.step())

    for number, (sample, adapter) in enumerate(zip(samples, adapters, strict=True)):
        together = crowd[str(number)].result
        assert tokens_of(together) == tokens_of(one(tiny_qwen3, sample, adapter))


def test_generation_stops_at_eos_by_default_and_keeps_it(tiny_qwen3: BaseModel) -> None:
    (prompt,) = prompts(6)
    hot = {"temperature": 3.0, "max_tokens": 40}
    for seed in range(40):
        free = tokens_of(one(tiny_qwen3, ask(prompt, seed=seed, **hot)))[0]
        if EOS in free[:-1]:
            break
    stopped = one(tiny_qwen3, ask(prompt, seed=seed, stop_at_eos=True, **hot)).sequences[0]

    assert stopped.tokens.tolist() == free[: free.index(EOS) + 1]
    assert stopped.stop_reason is StopReason.STOP


def test_a_stop_token_ends_the_answer_and_stays_in_it(tiny_qwen3: BaseModel) -> None:
    (prompt,) = prompts(6)
    free = one(tiny_qwen3, ask(prompt)).sequences[0]
    assert (len(free.tokens), free.stop_reason) == (12, StopReason.LENGTH)
    stop = int(free.tokens[4])
    first = free.tokens.tolist().index(stop)

    stopped = one(tiny_qwen3, ask(prompt, stop_tokens=(stop, 96))).sequences[0]

    assert stopped.tokens.tolist() == free.tokens[: first + 1].tolist()
    assert len(stopped.logprobs) == len(stopped.tokens)
    assert stopped.stop_reason is StopReason.STOP


def test_a_stop_string_ends_the_answer_with_the_token_that_completes_it(
    tiny_qwen3: BaseModel,
) -> None:
    def decode(ids: Sequence[int]) -> str:
        return "".join(f"<{token}>" for token in ids)

    (prompt,) = prompts(6)
    free = one(tiny_qwen3, ask(prompt)).sequences[0].tokens.tolist()
    stop = f"{free[4]}><{free[5]}"  # spans two tokens

    stopped = one(tiny_qwen3, ask(prompt, stop_strings=(stop,)), decode_text=decode).sequences[0]

    assert stopped.tokens.tolist() == free[:6]
    assert stopped.stop_reason is StopReason.STOP


def test_a_stop_on_the_last_allowed_token_counts_as_stop(tiny_qwen3: BaseModel) -> None:
    (prompt,) = prompts(6)
    first = int(one(tiny_qwen3, ask(prompt, max_tokens=1)).sequences[0].tokens[0])
    sequence = one(tiny_qwen3, ask(prompt, max_tokens=1, stop_tokens=(first,))).sequences[0]
    assert sequence.stop_reason is StopReason.STOP


def test_without_max_tokens_the_answer_fills_the_context(tiny_qwen3: BaseModel) -> None:
    (prompt,) = prompts(50)
    sequence = one(tiny_qwen3, ask(prompt, max_tokens=None)).sequences[0]
    assert len(sequence.tokens) == tiny_qwen3.context_limit - 50
    assert sequence.stop_reason is StopReason.LENGTH


def test_a_prompt_that_fills_the_context_can_be_scored(tiny_qwen3: BaseModel) -> None:
    (prompt,) = prompts(tiny_qwen3.context_limit)
    result = one(tiny_qwen3, ask(prompt, max_tokens=1, prompt_logprobs=True))
    assert result.prompt_logprobs is not None
    assert np.isfinite(result.prompt_logprobs[1:]).all()


def test_only_the_last_prompt_tokens_are_scored_when_asked(tiny_qwen3: BaseModel) -> None:
    (prompt,) = prompts(9)
    whole = one(tiny_qwen3, ask(prompt, prompt_logprobs=True)).prompt_logprobs
    for last_n, first in ((3, 6), (1, 8), (50, 1)):
        part = one(
            tiny_qwen3, ask(prompt, prompt_logprobs=True, prompt_logprobs_last_n=last_n)
        ).prompt_logprobs
        assert whole is not None and part is not None
        assert np.isnan(part[:first]).all()
        np.testing.assert_allclose(part[first:], whole[first:], atol=1e-6)


def test_topk_rows_hold_the_likeliest_tokens_first(tiny_qwen3: BaseModel) -> None:
    (prompt,) = prompts(5)
    result = one(
        tiny_qwen3,
        ask(prompt, prompt_logprobs=True, topk_prompt_logprobs=97, topk_sample_logprobs=4),
    )

    top, scored = result.topk_prompt_logprobs, result.prompt_logprobs
    assert top is not None and scored is not None
    assert top.token_ids.shape == (5, 97)
    assert (top.token_ids[0] == 0).all() and (top.logprobs[0] == np.float32(-99999.0)).all()
    assert (np.diff(top.logprobs[1:], axis=1) <= 0).all()
    np.testing.assert_allclose(np.exp(top.logprobs[1:].astype(float)).sum(axis=1), 1, atol=1e-5)
    for position in range(1, 5):
        place = top.token_ids[position].tolist().index(prompt[position])
        assert top.logprobs[position, place] == pytest.approx(scored[position], abs=1e-5)
    (sequence,) = result.sequences
    assert sequence.topk is not None and sequence.topk.token_ids.shape == (12, 4)
    # Greedy: the likeliest token is the one that was taken.
    assert sequence.topk.token_ids[:, 0].tolist() == sequence.tokens.tolist()
    np.testing.assert_allclose(sequence.topk.logprobs[:, 0], sequence.logprobs, atol=1e-6)


def test_a_frozen_adapter_answers_bit_for_bit_alike_after_further_training(
    tiny_qwen3: BaseModel,
    trained_adapter: Callable[..., AdapterState],
    batch: Callable[..., ForwardBackward],
) -> None:
    state = TrainingState(trained_adapter(tiny_qwen3, LoraConfig(4, 0)))
    frozen = state.adapter.frozen(tiny_qwen3.dtype)
    (prompt,) = prompts(8)
    before = one(tiny_qwen3, ask(prompt, prompt_logprobs=True), frozen)
    trainer = Trainer(tiny_qwen3, state)
    trainer.forward_backward(batch())
    trainer.optim_step(OptimStep(AdamParams(learning_rate=0.05)))

    after = one(tiny_qwen3, ask(prompt, prompt_logprobs=True), frozen)
    newest = one(tiny_qwen3, ask(prompt), state.adapter.frozen(tiny_qwen3.dtype))

    assert before.prompt_logprobs is not None and after.prompt_logprobs is not None
    assert before.prompt_logprobs.tobytes() == after.prompt_logprobs.tobytes()
    assert before.sequences[0].tokens.tobytes() == after.sequences[0].tokens.tobytes()
    assert before.sequences[0].logprobs.tobytes() == after.sequences[0].logprobs.tobytes()
    assert newest.sequences[0].logprobs.tobytes() != after.sequences[0].logprobs.tobytes()


def test_sampling_between_micro_batches_leaves_training_untouched(
    tiny_qwen3: BaseModel,
    trained_adapter: Callable[..., AdapterState],
    batch: Callable[..., ForwardBackward],
) -> None:
    def gradient(sampler: Sampler | None) -> tuple[bytes, bytes]:
        state = TrainingState(trained_adapter(tiny_qwen3, LoraConfig(4, 0)))
        frozen = state.adapter.frozen(tiny_qwen3.dtype)
        work = Trainer(tiny_qwen3, state, TrainingSettings(token_budget=12)).start(batch())
        while work.advance() is None:
            if sampler is not None:
                sampler.add("x", ask(prompts(8)[0], max_tokens=2), frozen)
                sampler.step()
                sampler.step()
        assert state.gradient_P is not None
        return state.gradient_P.numpy().tobytes(), state.adapter.weights_P.numpy().tobytes()

    assert gradient(Sampler(tiny_qwen3)) == gradient(None)


@pytest.mark.parametrize("name", ["qwen3", "gemma2"])
def test_sampling_between_the_layers_of_a_pass_leaves_training_untouched(
    name: str,
    base_of: Callable[[str], BaseModel],
    trained_adapter: Callable[..., AdapterState],
    batch: Callable[..., ForwardBackward],
) -> None:
    base, wanted = base_of(name), None
    for checkpointing in (False, False, True):
        state = TrainingState(trained_adapter(base, LoraConfig(4, 0)))
        sampler, found, num_pauses = Sampler(base), [], 0

        def pause(sampler: Sampler = sampler, found: list[Sampled] = found) -> None:
            nonlocal num_pauses
            base.on_pause, num_pauses = None, num_pauses + 1
            found += [outcome.result for _, outcome in sampler.step()]  # type: ignore[union-attr]
            base.on_pause = pause

        sampler.add("x", ask(prompts(20)[0], max_tokens=4), state.adapter.frozen(base.dtype))
        if wanted is not None:
            base.on_pause = pause
        Trainer(base, state, TrainingSettings(checkpointing=checkpointing)).forward_backward(
            batch()
        )
        base.on_pause = None
        assert state.gradient_P is not None
        wanted = wanted if wanted is not None else state.gradient_P
        assert torch.equal(state.gradient_P, wanted)
    assert num_pauses > base.num_layers
    assert tokens_of(found[0]) == tokens_of(
        one(base, ask(prompts(20)[0], max_tokens=4), state.adapter.frozen(base.dtype))
    )


def test_a_diverged_adapter_fails_its_own_request_only(
    tiny_qwen3: BaseModel, trained_adapter: Callable[..., AdapterState]
) -> None:
    adapter = trained_adapter(tiny_qwen3, LoraConfig(2, 0))
    adapter.weights_P.fill_(float("nan"))
    sampler, (prompt,) = Sampler(tiny_qwen3), prompts(6)
    sampler.add("broken", ask(prompt, num_samples=2), adapter.frozen(torch.float32))
    sampler.add("sound", ask(prompt), None)
    outcomes = {}
    while sampler.num_waiting or sampler.num_active:
        outcomes |= dict(sampler.step())

    assert isinstance(outcomes["broken"], Failed)
    assert outcomes["broken"].category is FailureCategory.USER
    assert "not finite" in outcomes["broken"].message
    assert tokens_of(outcomes["sound"].result) == tokens_of(one(tiny_qwen3, ask(prompt)))


def test_reset_names_what_is_lost_and_the_sampler_goes_on(tiny_qwen3: BaseModel) -> None:
    sampler, (prompt,) = Sampler(tiny_qwen3, max_active_sequences=1), prompts(6)
    for request_id in ("active", "waiting"):
        sampler.add(request_id, ask(prompt), None)
    sampler.step()

    assert sorted(sampler.reset()) == ["active", "waiting"]
    assert (sampler.num_active, sampler.num_waiting) == (0, 0)
    result = drain(sampler, [(ask(prompt), None)])[0]
    assert tokens_of(result) == tokens_of(one(tiny_qwen3, ask(prompt)))


@pytest.mark.parametrize(
    ("sample", "message"),
    [
        (ask(np.zeros(0, np.int32)), "prompt is empty"),
        (ask(np.full(65, 5, np.int32)), "65 tokens; the model's context holds 64"),
        (ask(np.array([5, 97], np.int32)), r"prompt\[1\] is token id 97.*0 to 96"),
        (ask(np.array([5], np.int32), stop_strings=("x",)), "without a tokenizer"),
        (ask(np.array([5], np.int32), temperature=-1.0), "temperature -1.0 is out of range"),
        (ask(np.array([5], np.int32), num_samples=0), "num_samples 0 is out of range"),
        (ask(np.array([5], np.int32), topk_prompt_logprobs=98), "98 is out of range: 0 to 97"),
    ],
)
def test_a_bad_request_is_refused_by_name_and_value(
    tiny_qwen3: BaseModel, sample: Sample, message: str
) -> None:
    sampler = Sampler(tiny_qwen3)
    with pytest.raises(InvalidInputError, match=message):
        sampler.add("x", sample, None)
    assert sampler.num_waiting == 0
