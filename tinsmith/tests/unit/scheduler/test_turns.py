"""Fairness, as a pure function."""

from tinsmith.scheduler.turns import Backlog, Idle, LastTurns, RunTurn, SampleTurn, next_turn


def take(backlog: Backlog, num_turns: int) -> list[str]:
    last, taken = LastTurns(), []
    for _ in range(num_turns):
        turn, last = next_turn(backlog, last)
        match turn:
            case RunTurn(run_id):
                taken.append(run_id)
            case SampleTurn():
                taken.append("sample")
            case Idle():
                taken.append("idle")
    return taken


def test_runs_go_round():
    assert take(Backlog(("b", "a", "c"), False), 7) == ["a", "b", "c", "a", "b", "c", "a"]


def test_training_and_sampling_alternate():
    backlog = Backlog(("a", "b"), True)
    assert take(backlog, 6) == ["sample", "a", "sample", "b", "sample", "a"]


def test_sampling_alone_takes_every_turn_and_nothing_is_idle():
    assert take(Backlog((), True), 3) == ["sample"] * 3
    assert take(Backlog((), False), 2) == ["idle"] * 2


def test_a_run_that_left_does_not_stop_the_round():
    _, last = next_turn(Backlog(("a", "b"), False), LastTurns(run_id="a"))
    turn, _ = next_turn(Backlog(("a", "c"), False), last)
    assert turn == RunTurn("c")
