"""What an engine tells of a sample's tokens before the outcome is there."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from running_engine import PATIENCE_S, Engine, load_tiny_model, sample
from tinsmith.domain.outcomes import Sampled, Succeeded


@pytest.fixture
def engine(tmp_path: Path) -> Iterator[Engine]:
    running = Engine(tmp_path, load_tiny_model(tmp_path / "model"))
    yield running
    running.stop()


def messages_until_settled(engine: Engine, request_ids: set[str]) -> list[dict]:
    heard = []
    engine.bell.ring("ring")
    deadline = time.monotonic() + PATIENCE_S
    while request_ids and time.monotonic() < deadline:
        message = engine.bell.listen(1.0)
        if message is not None:
            heard.append(message)
            if message["kind"] == "settled":
                request_ids = request_ids - set(message["request_ids"])
    assert not request_ids
    return heard


def test_tokens_are_told_step_by_step_to_those_who_asked_and_agree_with_the_outcome(
    engine: Engine,
):
    scope = engine.sampler(0, None)
    streamed = replace(sample(), stream="s", num_samples=2, topk_sample_logprobs=1)
    asked = engine.append(0, streamed, scope)
    silent = engine.append(1, sample(), scope)

    heard = messages_until_settled(engine, {asked, silent})

    steps = [message["told"] for message in heard if message["kind"] == "tokens"]
    assert len(steps) == 4  # max_tokens, one step each
    outcome = engine.wait(asked)
    assert isinstance(outcome, Succeeded) and isinstance(outcome.result, Sampled)
    told = [one for step in steps for one in step]
    assert {name for name, *_ in told} == {"s"}
    for number, sequence in enumerate(outcome.result.sequences):
        mine = [one for one in told if one[1] == number]
        assert [place for _, _, place, *_ in mine] == [0, 1, 2, 3]
        assert [token for *_, token, _, _ in mine] == sequence.tokens.tolist()
        assert [logprob for *_, logprob, _ in mine] == sequence.logprobs.tolist()
        assert [top[0][0] for *_, top in mine] == sequence.tokens.tolist()  # greedy
