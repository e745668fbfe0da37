"""Who goes next among those who share something, and who owes what. Pure: no clock, no memory of
its own.

Deficit round robin (Shreedhar and Varghese, "Efficient Fair Queuing Using Deficit Round-Robin",
IEEE/ACM Transactions on Networking 4(3), 1996), with three things settled in our own way. A turn is
charged after it has been chosen, when its tokens are known, so that a deficit is a debt: only who
owes nothing goes. A visit is one turn, whatever is queued. And a round hands out as little as need
be: while all who wait owe something, rounds pass at once in which everybody's debt falls by their
weight, until the first one owes nothing. So

- who owes nothing waits at most one turn of each other;
- of two who wait all the time, neither gets ahead of the other by more than a turn's tokens over
  its weight;
- nobody saves up: there are debts, but no credit. What somebody owes who has nothing to do falls
  with the others' rounds, and is forgotten once nobody waits.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

Weights = Mapping[str, float]
"""Above 0, by name; 1 for those who are not in it."""


@dataclass(frozen=True, slots=True)
class Shares:
    """What fairness has to remember."""

    owed: Mapping[str, float] = field(default_factory=dict[str, float])
    """Tokens, by name; whose last turn is longest ago comes first. Those who neither wait nor owe
    anything are not in it."""

    def charge(self, name: str, tokens: float) -> Shares:
        """With what a turn has cost."""
        return Shares({**self.owed, name: self.owed.get(name, 0.0) + tokens})

    def rounds_until(self, name: str, weights: Weights) -> float:
        """Rounds that have to pass before it owes nothing."""
        return self.owed.get(name, 0.0) / weights.get(name, 1.0)


def next_of(shares: Shares, waiting: Iterable[str], weights: Weights) -> tuple[str, Shares]:
    """Whose turn it is.

    Args:
        waiting: at least one; newcomers queue up in this order.

    Returns:
        Its name, and the shares to charge it to.
    """
    names = dict.fromkeys(waiting, 0.0)
    rounds = min(shares.rounds_until(name, weights) for name in names)
    owed: dict[str, float] = {}
    for name, debt in {
        **shares.owed,
        **{new: 0.0 for new in names if new not in shares.owed},
    }.items():
        has_paid = shares.rounds_until(name, weights) <= rounds
        left = 0.0 if has_paid else max(0.0, debt - rounds * weights.get(name, 1.0))
        if left or name in names:
            owed[name] = left
    chosen = next(name for name, debt in owed.items() if name in names and not debt)
    owed[chosen] = owed.pop(chosen)
    return chosen, Shares(owed)


def heaviest(held: Mapping[str, float], weights: Weights) -> str:
    """Who holds the most for its weight; the last of several."""
    return max(sorted(held), key=lambda name: (held[name] / weights.get(name, 1.0), name))


def who_gives_way(
    held: Mapping[str, float], name: str, wanted: float, weights: Weights
) -> str | None:
    """The other one who holds the most for its weight, if that is more than `name` would hold with
    `wanted` on top. So giving never makes the giver the poorer of the two, and nothing goes to and
    fro."""
    others = {other: amount for other, amount in held.items() if other != name and amount > 0}
    if not others:
        return None
    other = heaviest(others, weights)
    after = (held.get(name, 0.0) + wanted) / weights.get(name, 1.0)
    return other if others[other] / weights.get(other, 1.0) > after else None
