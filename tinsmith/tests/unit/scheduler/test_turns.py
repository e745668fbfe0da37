"""Whose turn it is, as a pure function of what waits and what was charged."""

from __future__ import annotations

from collections import Counter

from hypothesis import given
from hypothesis import strategies as st
from tinsmith.scheduler.turns import (
    LEAST_TURN_TOKENS,
    Accounts,
    Backlog,
    Idle,
    RunTurn,
    SampleTurn,
    Turn,
    next_turn,
)

PROJECTS = "abcd"
backlogs = st.builds(
    Backlog,
    runs=st.dictionaries(
        st.sampled_from(PROJECTS),
        st.sets(st.integers(0, 3).map(str), min_size=1).map(tuple),
    ),
    samples=st.sets(st.sampled_from(PROJECTS)),
)
tokens = st.integers(LEAST_TURN_TOKENS, 4096)
weights_of_all = st.fixed_dictionaries({name: st.floats(0.2, 5.0) for name in PROJECTS})


def charged(
    accounts: Accounts, turn: Turn, backlog: Backlog, cost: int, weights: dict[str, float]
) -> Accounts:
    match turn:
        case RunTurn():
            return accounts.charge_run(turn, cost)
        case SampleTurn():
            rows = dict.fromkeys(backlog.samples, cost // len(backlog.samples))
            return accounts.charge_sampling(turn, rows, weights)
        case Idle():
            return accounts


def take(backlog: Backlog, num_turns: int, cost: int = 100) -> list[str]:
    accounts, taken = Accounts(), []
    for _ in range(num_turns):
        turn, accounts = next_turn(backlog, accounts, {})
        accounts = charged(accounts, turn, backlog, cost, {})
        match turn:
            case RunTurn(project, run_id):
                taken.append(f"{project}{run_id}")
            case SampleTurn(project):
                taken.append(f"{project} sample")
            case Idle():
                taken.append("idle")
    return taken


def test_runs_of_a_project_go_round():
    backlog = Backlog({"p": ("2", "1", "3")}, ())
    assert take(backlog, 7) == ["p1", "p2", "p3", "p1", "p2", "p3", "p1"]


def test_training_and_sampling_of_a_project_alternate():
    backlog = Backlog({"p": ("1", "2")}, ("p",))
    assert take(backlog, 6) == ["p sample", "p1", "p sample", "p2", "p sample", "p1"]


def test_a_project_with_many_runs_has_no_more_than_one_with_one():
    backlog = Backlog({"p": ("1", "2", "3"), "q": ("1",)}, ())
    assert take(backlog, 6) == ["p1", "q1", "p2", "q1", "p3", "q1"]


def test_sampling_alone_takes_every_turn_and_nothing_is_idle():
    assert take(Backlog({}, ("p",)), 3) == ["p sample"] * 3
    assert take(Backlog({}, ()), 2) == ["idle"] * 2


def test_debts_are_forgotten_when_nothing_waits():
    accounts = Accounts().charge_run(RunTurn("p", "1"), 4096)
    assert next_turn(Backlog({}, ()), accounts, {}) == (Idle(), Accounts())


@given(st.lists(st.tuples(backlogs, tokens), min_size=1, max_size=60), weights_of_all)
def test_whatever_waits_the_engine_works_at_it_and_at_nothing_else(day, weights):
    accounts = Accounts()
    for backlog, cost in day:
        turn, accounts = next_turn(backlog, accounts, weights)
        match turn:
            case RunTurn(project, run_id):
                assert run_id in backlog.runs[project]
            case SampleTurn(project):
                assert project in backlog.samples
            case Idle():
                assert not backlog.runs and not backlog.samples
        accounts = charged(accounts, turn, backlog, cost, weights)


@given(st.lists(st.tuples(backlogs, tokens), max_size=40), backlogs, tokens, weights_of_all)
def test_a_project_that_owes_nothing_waits_at_most_one_turn_of_each_other(
    day, backlog, cost, weights
):
    accounts = Accounts()
    for before, tokens_before in day:
        turn, accounts = next_turn(before, accounts, weights)
        accounts = charged(accounts, turn, before, tokens_before, weights)
    if accounts.projects.owed.get("a"):
        return
    backlog = Backlog({**backlog.runs, "a": ("1",)}, backlog.samples - {"a"})
    had: Counter[str] = Counter()
    while True:
        turn, accounts = next_turn(backlog, accounts, weights)
        assert not isinstance(turn, Idle)
        if turn.project == "a":
            break
        had[turn.project] += 1
        accounts = charged(accounts, turn, backlog, cost, weights)
        assert had[turn.project] == 1


@given(st.lists(tokens, min_size=200, max_size=300), weights_of_all)
def test_training_and_sampling_share_by_weight_together(costs, weights):
    backlog = Backlog({"a": ("1",), "c": ("1",)}, ("b",))
    accounts, had = Accounts(), Counter[str]()
    for cost in costs:
        turn, accounts = next_turn(backlog, accounts, weights)
        match turn:
            case RunTurn(project):
                accounts = accounts.charge_run(turn, cost)
            case SampleTurn(project):
                accounts = accounts.charge_sampling(turn, {"b": cost}, weights)
            case Idle():
                raise AssertionError("there is work")
        had[project] += cost
    served = {name: had[name] / weights[name] for name in "abc"}
    assert max(served.values()) - min(served.values()) <= 4096 / min(weights.values()) + 1e-6


@given(st.lists(tokens, min_size=100, max_size=200))
def test_runs_of_a_project_have_as_many_tokens(costs):
    backlog, accounts, had = Backlog({"p": ("1", "2", "3")}, ("p",)), Accounts(), Counter[str]()
    for cost in costs:
        turn, accounts = next_turn(backlog, accounts, {})
        if isinstance(turn, RunTurn):
            had[turn.run_id] += cost
        accounts = charged(accounts, turn, backlog, cost, {})
    assert max(had.values()) - min(had[run] for run in "123") <= 4096


def test_a_step_that_others_have_too_is_charged_until_one_owes_most():
    turn, accounts = SampleTurn("few"), Accounts().charge_run(RunTurn("trains", "1"), 300)
    for _ in range(9):
        accounts = accounts.charge_sampling(turn, {"few": 1, "many": 200}, {})
    assert accounts.projects.owed == {"trains": 300, "few": 9 * LEAST_TURN_TOKENS, "many": 400}


def test_between_layers_samples_those_whose_share_is_not_used_up():
    accounts = Accounts().charge_run(RunTurn("trains", "1"), 4096)
    assert accounts.turn_between_layers("trains", (), {}) is None
    assert accounts.turn_between_layers("trains", ("new", "trains"), {}) == SampleTurn("new")
    accounts = accounts.charge_sampling(SampleTurn("old"), {"old": 5000}, {})
    assert accounts.turn_between_layers("trains", ("old",), {}) is None
    assert accounts.turn_between_layers("trains", ("old",), {"old": 2.0}) == SampleTurn("old")
    # A project's own micro-batch holds its own samples up no more than before.
    assert accounts.turn_between_layers("trains", ("old", "trains"), {}) == SampleTurn("trains")
