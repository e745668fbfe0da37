"""Who wants a token need not wait for the end of a micro-batch."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from running_engine import Engine, batch, load_tiny_model, sample, step
from tinsmith.domain.outcomes import ForwardBackwardDone, Outcome, StepDone, Succeeded
from tinsmith.engine import loop
from tinsmith.engine.base_model import BaseModel
from tinsmith.ledger.entries import LeaseLostError
from tinsmith.nn.context import Prefill


@pytest.fixture(scope="module")
def base_model(tmp_path_factory: pytest.TempPathFactory) -> BaseModel:
    return load_tiny_model(tmp_path_factory.mktemp("model"))


@pytest.fixture
def engine(
    tmp_path: Path, base_model: BaseModel, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Engine]:
    monkeypatch.setattr(loop, "LEAST_TRAINING_S", 0.0)
    running = Engine(tmp_path, base_model)
    yield running
    running.stop()


def trained(outcome: Outcome) -> tuple[bytes, object]:
    assert isinstance(outcome, Succeeded) and isinstance(outcome.result, ForwardBackwardDone)
    return outcome.result.logprobs[0].tobytes(), outcome.result.metrics["loss:sum"]


def ask_in_the_middle(
    engine: Engine, base_model: BaseModel, monkeypatch: pytest.MonkeyPatch
) -> list[str]:
    """From now on each training pass finds a new sample in the log when it has begun; their
    request ids."""
    hidden, asked = base_model.hidden, []

    def begin(*args, **options):
        if isinstance(args[3], Prefill):
            sampler = engine.sampler(len(asked), None)
            asked.append(engine.append(len(asked) + 1, sample(), sampler))
            engine.bell.ring("ring")
        return hidden(*args, **options)

    monkeypatch.setattr(base_model, "hidden", begin)
    return asked


def test_a_sample_that_comes_within_a_micro_batch_is_answered_before_its_end(
    engine: Engine, base_model: BaseModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    alone = trained(engine.submit(1, batch()))
    norm_alone = engine.submit(2, step(0.0))
    settled: list[str] = []
    settle_many = engine.ledger.settle_many

    def noted(settlements):
        settled.extend(one.request_id for one in settlements)
        return settle_many(settlements)

    asked = ask_in_the_middle(engine, base_model, monkeypatch)
    monkeypatch.setattr(engine.ledger, "settle_many", noted)
    request_id = engine.append(3, batch(), engine.run_id)
    interrupted = trained(engine.wait(request_id))

    assert len(asked) == 1
    assert settled == [asked[0], request_id]
    assert isinstance(engine.wait(asked[0]), Succeeded)
    # And training has not noticed.
    assert interrupted == alone
    again = engine.submit(4, step(0.0))
    assert isinstance(norm_alone, Succeeded) and isinstance(again, Succeeded)
    assert isinstance(norm_alone.result, StepDone) and again.result == norm_alone.result


def test_what_goes_wrong_in_a_pause_does_not_fail_the_op_under_way(
    tmp_path: Path, base_model: BaseModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loop, "LEAST_TRAINING_S", 0.0)
    raised: list[BaseException] = []
    monkeypatch.setattr("threading.excepthook", lambda args: raised.append(args.exc_value))
    engine = Engine(tmp_path, base_model)
    asked = ask_in_the_middle(engine, base_model, monkeypatch)
    engine.ledger.acquire_lease("tests/tiny", "somebody else")
    engine.append(1, batch(), engine.run_id)
    engine.bell.ring("ring")
    engine.thread.join(30)

    # The engine has ended, as it must, and has written nothing.
    assert [type(error) for error in raised] == [LeaseLostError]
    assert len(asked) == 1
    assert engine.ledger.outcomes([*asked]) == {}
    engine.stop()
