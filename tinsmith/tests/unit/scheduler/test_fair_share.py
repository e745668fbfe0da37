"""Deficit round robin, held to what it promises."""

from __future__ import annotations

from collections import Counter

from hypothesis import given
from hypothesis import strategies as st
from tinsmith.scheduler.fair_share import Shares, heaviest, next_of, who_gives_way

MOST_TOKENS = 5000
NAMES = "abcdef"
names = st.sets(st.sampled_from(NAMES), min_size=1)
costs = st.integers(1, MOST_TOKENS)
weights_of_all = st.fixed_dictionaries({name: st.floats(0.1, 10.0) for name in NAMES})
days = st.lists(st.tuples(names, costs), min_size=1, max_size=80)
"""Who waits at each turn, and what it costs."""


def after(day: list[tuple[set[str], int]], weights: dict[str, float]) -> Shares:
    shares = Shares()
    for waiting, cost in day:
        name, shares = next_of(shares, sorted(waiting), weights)
        shares = shares.charge(name, cost)
    return shares


@given(days, weights_of_all)
def test_only_who_waits_has_a_turn_and_somebody_always_has(day, weights) -> None:
    shares = Shares()
    for waiting, cost in day:
        name, shares = next_of(shares, sorted(waiting), weights)
        assert name in waiting
        shares = shares.charge(name, cost)


@given(
    days,
    names,
    st.lists(costs, min_size=200, max_size=400),
    weights_of_all,
)
def test_those_who_wait_all_the_time_get_what_their_weights_say(
    day, waiting, tokens, weights
) -> None:
    shares = after(day, weights)
    owed = {name: shares.rounds_until(name, weights) for name in waiting}
    had: Counter[str] = Counter()
    for cost in tokens:
        name, shares = next_of(shares, sorted(waiting), weights)
        shares = shares.charge(name, cost)
        had[name] += cost
    # Debts from before count, too: that is what they are for.
    served = {name: had[name] / weights[name] + owed[name] for name in waiting}
    for one in waiting:
        for other in waiting:
            apart = served[one] - served[other] - max(0.0, owed[one] - owed[other])
            assert apart <= MOST_TOKENS / weights[one] + 1e-6


@given(days, names, st.sampled_from(NAMES), st.lists(costs, min_size=6, max_size=6), weights_of_all)
def test_who_owes_nothing_waits_at_most_one_turn_of_each_other(
    day, others, newcomer, tokens, weights
) -> None:
    shares = after(day, weights)
    if shares.owed.get(newcomer):
        return
    had: list[str] = []
    for cost in tokens:
        name, shares = next_of(shares, sorted(others | {newcomer}), weights)
        shares = shares.charge(name, cost)
        had.append(name)
    before = had[: had.index(newcomer)]
    assert len(before) == len(set(before))


@given(days, names, weights_of_all)
def test_nobody_starves(day, waiting, weights) -> None:
    shares, missing = after(day, weights), set(waiting)
    for _ in range(10_000):
        name, shares = next_of(shares, sorted(waiting), weights)
        shares = shares.charge(name, MOST_TOKENS)
        missing.discard(name)
        if not missing:
            return
    raise AssertionError(f"{missing} never had a turn")


@given(days)
def test_nobody_saves_up_while_idle(day) -> None:
    shares = after(day, {})
    for _ in range(50):
        _, shares = next_of(shares, ["a"], {})
        shares = shares.charge("a", MOST_TOKENS)
    turns = ""
    for _ in range(100):
        name, shares = next_of(shares, ["a", "b"], {})
        shares, turns = shares.charge(name, MOST_TOKENS), turns + name
    assert 49 <= turns.count("b") <= 51


def test_equal_ones_go_round() -> None:
    shares, turns = Shares(), ""
    for _ in range(7):
        name, shares = next_of(shares, "abc", {})
        shares, turns = shares.charge(name, 64), turns + name
    assert turns == "abcabca"


def test_a_weight_of_three_has_three_turns_for_one() -> None:
    shares, turns = Shares(), ""
    for _ in range(400):
        name, shares = next_of(shares, "ab", {"b": 3.0})
        shares, turns = shares.charge(name, 64), turns + name
    assert 99 <= turns.count("a") <= 101


def test_those_who_owe_nothing_and_do_not_wait_are_forgotten() -> None:
    _, shares = next_of(Shares(), ["a", "b"], {})
    assert set(shares.owed) == {"a", "b"}
    _, shares = next_of(shares, ["c"], {})
    assert set(shares.owed) == {"c"}


def test_who_holds_most_for_its_weight_gives_way_but_never_becomes_the_poorer() -> None:
    assert who_gives_way({"a": 5, "b": 9}, "c", 1, {}) == "b"
    assert who_gives_way({"a": 5, "b": 9}, "c", 1, {"b": 3.0}) == "a"
    assert who_gives_way({"a": 5, "b": 5}, "b", 1, {}) is None
    assert who_gives_way({"a": 5, "c": 4}, "c", 1, {}) is None
    assert who_gives_way({"c": 4}, "c", 1, {}) is None
    assert heaviest({"a": 5, "b": 9, "c": 3}, {"b": 2.0}) == "a"


@given(
    st.dictionaries(st.sampled_from(NAMES), st.integers(0, 40), min_size=2), weights_of_all, names
)
def test_giving_way_comes_to_an_end(held, weights, wanting) -> None:
    for _ in range(sum(held.values()) * len(held) + 1):
        for name in sorted(wanting):
            giver = who_gives_way(held, name, 1, weights)
            if giver is not None:
                held = {**held, giver: held[giver] - 1, name: held.get(name, 0) + 1}
                break
        else:
            return
    raise AssertionError("rows go to and fro")
