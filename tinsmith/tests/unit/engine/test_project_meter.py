"""What is counted of each project."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest
from tinsmith.domain.engine_report import ProjectReport
from tinsmith.engine import project_meter, weights
from tinsmith.engine.project_meter import ProjectMeter
from tinsmith.engine.weights import ProjectWeights
from tinsmith.ledger.ledger import Ledger
from tinsmith.scheduler.turns import Idle, RunTurn, SampleTurn

NOTHING: Counter[str] = Counter()


def told(meter: ProjectMeter, project: str) -> ProjectReport:
    return meter.reports(NOTHING, NOTHING)[project]


def test_only_turns_of_others_count_with_the_one_that_is_under_way() -> None:
    meter = ProjectMeter()
    meter.turn(RunTurn("a", "1"))
    meter.arrived("late", "b")
    meter.turn(RunTurn("a", "1"))
    meter.turn(SampleTurn("b"))
    meter.turn(RunTurn("a", "1"))
    meter.turn(RunTurn("b", "1"))
    meter.began(["late", "late", "unknown"])

    assert told(meter, "b").wait_turns_sum == 3
    assert sum(told(meter, "b").wait_turns) == sum(told(meter, "b").wait_s) == 1
    assert (told(meter, "a").turns, told(meter, "b").turns) == (3, 2)


def test_who_comes_when_the_engine_is_idle_or_at_its_own_waits_for_nobody() -> None:
    meter = ProjectMeter()
    meter.turn(RunTurn("a", "1"))
    meter.arrived("own", "a")
    meter.turn(Idle())
    meter.arrived("alone", "b")
    meter.turn(RunTurn("b", "1"))
    meter.began(["alone"])
    meter.turn(RunTurn("a", "1"))
    meter.began(["own"])

    assert told(meter, "b").wait_turns[0] == 1
    assert told(meter, "a").wait_turns_sum == 1  # b's


def test_more_turns_than_any_bound_are_counted_too() -> None:
    meter = ProjectMeter()
    meter.arrived("patient", "b")
    for _ in range(2000):
        meter.turn(RunTurn("a", "1"))
    meter.began(["patient"])
    assert told(meter, "b").wait_turns[-1] == 1


def test_what_was_cancelled_never_began() -> None:
    meter = ProjectMeter()
    meter.arrived("gone", "a")
    meter.forget(["gone", "never was"])
    meter.turn(RunTurn("a", "1"))
    meter.began(["gone"])
    assert sum(told(meter, "a").wait_turns) == 0


def test_projects_are_told_of_while_they_have_work_and_a_while_after(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    meter = ProjectMeter()
    meter.worked({"a": 5, "b": 7})
    monkeypatch.setattr(project_meter, "REMEMBERED_S", -1.0)
    assert meter.reports(NOTHING, NOTHING) == {}
    monkeypatch.setattr(project_meter, "REMEMBERED_S", 60.0)
    found = meter.reports(Counter(a=3), Counter(c=1))
    assert {name: (one.ops_waiting, one.requests_waiting) for name, one in found.items()} == {
        "a": (3, 0),
        "c": (0, 1),
    }
    assert found["a"].tokens == 0  # counted anew


def test_weights_are_read_again_after_some_seconds(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ledger = Ledger.open(tmp_path / "ledger.db")
    try:
        ledger.change_project("a", weight=2.0)
        ledger.create_project("b")
        known = ProjectWeights(ledger)
        live = known.by_project
        assert live == {"a": 2.0}
        ledger.change_project("b", weight=0.5)
        known.read_now_and_then()
        assert live == {"a": 2.0}
        monkeypatch.setattr(weights, "READ_EVERY_S", 0.0)
        known.read_now_and_then()
        assert live == {"a": 2.0, "b": 0.5}
    finally:
        ledger.close()
