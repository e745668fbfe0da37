"""Who joins the batch, and who gives back, when there is not room for all projects' sequences."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tinsmith.domain.ops import Sample, SamplingParams
from tinsmith.domain.outcomes import Sampled, Succeeded
from tinsmith.engine.base_model import BaseModel
from tinsmith.engine.room import GIVEN_AT_ONCE
from tinsmith.engine.sampler import Sampler
from tinsmith.nn.kv_cache import BLOCK


def ask(seed: int, length: int = 6, max_tokens: int = 30, num_samples: int = 1) -> Sample:
    prompt = np.random.default_rng(seed).integers(3, 97, length).astype(np.int32)
    params = SamplingParams(max_tokens=max_tokens, temperature=0.0, stop_at_eos=False)
    return Sample(prompt, params, num_samples)


def blocks(base: BaseModel, count: int) -> int:
    """Bytes of so many."""
    return count * BLOCK * base.cache_bytes_per_token


def finish(sampler: Sampler) -> dict[str, tuple[int, list[list[int]]]]:
    """By request: the step that finished it, and its tokens."""
    found: dict[str, tuple[int, list[list[int]]]] = {}
    number = 0
    while sampler.has_work:
        for request_id, outcome in sampler.step():
            assert isinstance(outcome, Succeeded) and isinstance(outcome.result, Sampled)
            tokens = [one.tokens.tolist() for one in outcome.result.sequences]
            found[request_id] = number, tokens
        number += 1
    return found


def answer(base: BaseModel, sample: Sample) -> list[list[int]]:
    sampler = Sampler(base)
    sampler.add("alone", sample, None)
    return finish(sampler)["alone"][1]


def test_rows_are_given_back_to_a_project_that_has_none(tiny_qwen3: BaseModel) -> None:
    sampler = Sampler(tiny_qwen3, max_active_sequences=4)
    for number in range(10):
        sampler.add(f"many {number}", ask(number), None, "many")
    for _ in range(6):
        sampler.step()
    sampler.add("one", ask(99, max_tokens=2), None, "few")

    found = finish(sampler)

    assert found["one"][0] <= 3  # a prompt's pass and a step, perhaps after one of others
    assert sampler.counts.put_back == 1
    assert found["one"][1] == answer(tiny_qwen3, ask(99, max_tokens=2))
    for number in range(10):
        assert found[f"many {number}"][1] == answer(tiny_qwen3, ask(number))


def test_rows_are_shared_by_weight_and_not_put_back_without_end(tiny_qwen3: BaseModel) -> None:
    sampler = Sampler(tiny_qwen3, max_active_sequences=6, weights={"heavy": 2.0})
    for number in range(8):
        sampler.add(f"a {number}", ask(number), None, "light")
    for _ in range(4):
        sampler.step()
    for number in range(8):
        sampler.add(f"b {number}", ask(100 + number), None, "heavy")
    for _ in range(4):
        sampler.step()

    held = dict(sampler.step_tokens)
    assert held == {"light": 2, "heavy": 4}
    before = sampler.counts.put_back
    for _ in range(10):
        sampler.step()
    assert sampler.counts.put_back == before == 4


def test_no_more_rows_are_put_back_than_a_start_needs(tiny_qwen3: BaseModel) -> None:
    num_rows = 4 * GIVEN_AT_ONCE
    sampler = Sampler(tiny_qwen3, max_active_sequences=num_rows)
    sampler.add("a", ask(1, num_samples=num_rows), None, "first")
    sampler.step()
    sampler.add("b", ask(2, num_samples=num_rows), None, "second")
    for _ in range(8):
        sampler.step()
    assert sampler.counts.put_back == GIVEN_AT_ONCE


def test_projects_take_turns_in_joining_by_what_was_read_for_them(tiny_qwen3: BaseModel) -> None:
    sampler = Sampler(tiny_qwen3, max_active_sequences=1)
    for number in range(4):
        sampler.add(f"a {number}", ask(number, 24, max_tokens=1), None, "long")
    for number in range(4):
        sampler.add(f"b {number}", ask(9 + number, 12, max_tokens=1), None, "short")
    order = sorted(finish(sampler).items(), key=lambda one: one[1][0])
    names = [name[0] for name, _ in order]
    assert names[:6].count("a") == 2


def test_a_long_prompt_in_parts_does_not_hold_another_project_up(tiny_qwen3: BaseModel) -> None:
    sampler = Sampler(tiny_qwen3, prefill_tokens=8)
    sampler.add("long", ask(1, 60, max_tokens=1), None, "a")
    sampler.step()
    sampler.add("short", ask(2, 6, max_tokens=1), None, "b")
    found = finish(sampler)
    assert found["short"][0] == 0 < found["long"][0]


def test_blocks_are_given_back_to_a_project_that_has_none(tiny_qwen3: BaseModel) -> None:
    sampler = Sampler(tiny_qwen3, max_cache_bytes=blocks(tiny_qwen3, 6))
    for number in range(3):
        sampler.add(f"many {number}", ask(number, 20, max_tokens=11), None, "many")
    sampler.step()
    assert sampler.num_blocks_used == 6
    sampler.add("one", ask(99, max_tokens=2), None, "few")

    found = finish(sampler)

    assert found["one"][0] <= 3
    assert sampler.counts.put_back == 1
    for number in range(3):
        assert found[f"many {number}"][1] == answer(tiny_qwen3, ask(number, 20, max_tokens=11))


def test_who_grows_gives_back_before_who_has_less(tiny_qwen3: BaseModel) -> None:
    """A small project's sequence keeps its blocks while a large one's answers get longer."""
    sampler = Sampler(tiny_qwen3, max_cache_bytes=blocks(tiny_qwen3, 6))
    sampler.add("small", ask(50, 10, max_tokens=20), None, "small")
    for number in range(2):
        sampler.add(f"large {number}", ask(number, 30, max_tokens=30), None, "large")
    found = finish(sampler)
    assert sampler.counts.put_back > 0
    assert found["small"][0] < 23  # twenty steps and the prompts' passes


def test_what_a_step_read_and_generated_is_told_by_project(tiny_qwen3: BaseModel) -> None:
    sampler = Sampler(tiny_qwen3)
    sampler.add("x", ask(1, 6, max_tokens=3, num_samples=2), None, "a")
    sampler.add("y", ask(2, 9, max_tokens=2), None, "b")
    told = []
    while sampler.has_work:
        sampler.step()
        told.append((dict(sampler.step_tokens), sampler.step_began))
    assert told == [({"a": 6, "b": 9}, ["x", "y"]), ({"a": 2, "b": 1}, []), ({"a": 2}, [])]
    assert sampler.projects == set()


@pytest.mark.parametrize("num_blocks", [4, 7, 40])
@settings(
    max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    st.lists(
        st.tuples(st.sampled_from("abc"), st.integers(1, 50), st.integers(1, 8), st.integers(1, 3)),
        min_size=1,
        max_size=8,
    )
)
def test_whatever_projects_ask_all_is_answered_as_if_alone(
    tiny_qwen3: BaseModel, num_blocks: int, asked: list[tuple[str, int, int, int]]
) -> None:
    sampler = Sampler(
        tiny_qwen3,
        max_cache_bytes=blocks(tiny_qwen3, num_blocks),
        max_active_sequences=3,
        prefill_tokens=16,
        weights={"c": 3.0},
    )
    samples = [
        ask(seed, length, most, several) for seed, (_, length, most, several) in enumerate(asked)
    ]
    for number, (sample, (project, *_)) in enumerate(zip(samples, asked, strict=True)):
        sampler.add(str(number), sample, None, project)
    found = finish(sampler)
    assert sampler.num_blocks_used == 0
    for number, sample in enumerate(samples):
        assert found[str(number)][1] == answer(tiny_qwen3, sample)
