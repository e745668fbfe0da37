"""Projects on one engine: who waits how many turns, who gets how much, and that bits stay bits."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest
from running_engine import LORA, MODEL, PATIENCE_S, Engine, batch, load_tiny_model, sample, step
from tinsmith.config import Engine as EngineSettings
from tinsmith.domain.engine_report import EngineReport
from tinsmith.domain.ops import CreateRun, ForwardBackward, Op, Sample
from tinsmith.domain.outcomes import ForwardBackwardDone, StepDone, Succeeded
from tinsmith.domain.records import Run, Sampler
from tinsmith.engine import loop
from tinsmith.engine.base_model import BaseModel
from tinsmith.scheduler.turns import Idle, RunTurn, SampleTurn

FOUR_DATUMS = 32
"""Tokens of a micro-batch."""
Trace = list[RunTurn | SampleTurn]


@pytest.fixture(scope="module")
def base_model(tmp_path_factory: pytest.TempPathFactory) -> BaseModel:
    return load_tiny_model(tmp_path_factory.mktemp("model"))


@pytest.fixture
def trace(monkeypatch: pytest.MonkeyPatch) -> Trace:
    """Every turn that engines take from now on."""
    taken: Trace = []
    choose = loop.next_turn

    def noted(*args):
        turn, accounts = choose(*args)
        if not isinstance(turn, Idle):
            taken.append(turn)
        return turn, accounts

    monkeypatch.setattr(loop, "next_turn", noted)
    return taken


Start = Callable[[], Engine]


@pytest.fixture
def start(tmp_path: Path, base_model: BaseModel) -> Iterator[Start]:
    running: list[Engine] = []

    def make() -> Engine:
        home = tmp_path / f"home-{len(running)}"
        home.mkdir()
        settings = EngineSettings(micro_batch_tokens=FOUR_DATUMS)
        running.append(Engine(home, base_model, settings))
        return running[-1]

    yield make
    for engine in running:
        engine.stop()


class Tenant:
    """A run of a project's own."""

    def __init__(self, engine: Engine, project: str) -> None:
        self._engine, self._project, self._next_seq = engine, project, 1
        session = engine.ledger.create_session(project).session_id
        self.run_id, now = f"{session}:train:0", datetime.now(UTC)
        run = Run(self.run_id, session, project, MODEL, LORA, now, now)
        assert isinstance(
            engine.wait(engine.ledger.create_run(run, CreateRun(MODEL, LORA))), Succeeded
        )
        self.sampler = f"{session}:sample:0"
        engine.ledger.create_sampler(Sampler(self.sampler, session, project, MODEL, None))

    def send(self, op: Op) -> str:
        """Log it without waking the engine; its request_id."""
        scope, seq_id = self.sampler if isinstance(op, Sample) else self.run_id, self._next_seq
        self._next_seq += 1
        return self._engine.ledger.append(scope, seq_id, op, owner=self._project, base_model=MODEL)


def datums(count: int, seed: int = 0) -> ForwardBackward:
    """Of 8 tokens each."""
    data = tuple(batch(1000 * seed + number).data[0] for number in range(count))
    return ForwardBackward(data, "cross_entropy")


def report_when(engine: Engine, is_wanted: Callable[[EngineReport], bool]) -> EngineReport:
    deadline = time.monotonic() + PATIENCE_S
    while time.monotonic() < deadline:
        message = engine.bell.listen(0.1)
        if message is not None and message["kind"] == "report":
            report = EngineReport.read(message["report"])
            if is_wanted(report):
                return report
    raise AssertionError("no such report")


def test_a_tenant_with_one_datum_waits_at_most_one_turn_of_each_other(start: Start) -> None:
    engine = start()
    crowd, few, single = (Tenant(engine, name) for name in ("crowd", "few", "single"))
    queued = [crowd.send(datums(16, seed)) for seed in range(80)]
    queued += [few.send(datums(9, seed)) for seed in range(80)]
    draw = random.Random(0)
    for number in range(12):
        assert isinstance(engine.wait(single.send(datums(1, number))), Succeeded)
        time.sleep(draw.random() * 0.02)
    assert len(engine.ledger.outcomes(queued)) < len(queued)  # there was a queue all the time
    for request_id in queued:
        engine.wait(request_id)
    num_waits = 1 + 12  # its creation, too
    report = report_when(
        engine,
        lambda report: (
            not sum(report.ops_waiting.values())
            and "single" in report.projects
            and sum(report.projects["single"].wait_turns) == num_waits
        ),
    )

    waits = report.projects["single"].wait_turns
    assert sum(waits[:3]) == num_waits
    assert report.projects["crowd"].turns == 80 * 4 + 1
    assert report.projects["crowd"].tokens == 80 * 16 * 8


def turns_of_a_day(engine: Engine, trace: Trace) -> list[str]:
    """The projects whose turns the engine takes when it finds what three of them have sent."""
    engine.ledger.change_project("heavy", weight=3.0)
    heavy, light, asks = (Tenant(engine, name) for name in ("heavy", "light", "asks"))
    del trace[:]
    draw, sent = random.Random(7), []
    for _ in range(60):
        sent.append(heavy.send(datums(4 * draw.choice([1, 2]))))
        sent.append(light.send(datums(4 * draw.choice([1, 2]))))
        sent.append(asks.send(sample()))
    for request_id in sent:
        assert isinstance(engine.wait(request_id), Succeeded)
    return [turn.project for turn in trace]


def test_turns_go_by_weight_and_the_same_day_has_the_same_turns(
    start: Start, trace: Trace, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tinsmith.engine.weights.READ_EVERY_S", 0.0)
    # What is done between layers is a matter of time.
    monkeypatch.setattr(loop, "LEAST_TRAINING_S", float("inf"))
    # And nothing is seen before all is there.
    monkeypatch.setattr(loop, "LOOK_ANYWAY_S", PATIENCE_S)

    first = turns_of_a_day(start(), trace)

    assert abs(first[:60].count("heavy") - 3 * first[:60].count("light")) <= 3
    assert first[:60].count("asks") > 0
    assert first == turns_of_a_day(start(), trace)


def test_whose_turns_come_in_between_changes_no_bit_of_a_run(start: Start) -> None:
    ops = [op for seed in range(5) for op in (datums(9, seed), step(0.01))]

    def trained(engine: Engine, tenant: Tenant) -> list[object]:
        found: list[object] = []
        for request_id in [tenant.send(op) for op in ops]:
            outcome = engine.wait(request_id)
            assert isinstance(outcome, Succeeded)
            match outcome.result:
                case ForwardBackwardDone(logprobs, metrics):
                    found.append([[one.tobytes() for one in logprobs], metrics])
                case StepDone(metrics):
                    found.append(metrics)
        return found

    alone = start()
    wanted = trained(alone, Tenant(alone, "one"))
    engine = start()
    crowd, asking, one = (Tenant(engine, name) for name in ("crowd", "asking", "one"))
    for seed in range(40):
        crowd.send(datums(11, seed))
        asking.send(sample())
    assert trained(engine, one) == wanted
