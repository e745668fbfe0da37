"""Training and test parts that share no near-duplicate and have the same balance of categories."""

from __future__ import annotations

import random
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import replace

from mailroom.corpus.example import Example
from mailroom.corpus.masking import mask

TEST_SHARE = 0.2
"""Of all rows, at most this share is for the test when both parts come from one source."""
MAX_TEST = 2000
MAX_VALIDATION = 200
"""Rows to calibrate by; more would tell little more, and cost time."""


def groups_of(examples: Iterable[Example]) -> set[str]:
    return {example.group for example in examples}


def outside(examples: Iterable[Example], groups: set[str]) -> list[Example]:
    """Those examples that have no near-duplicate in `groups`."""
    return [example for example in examples if example.group not in groups]


def draw_test(
    examples: Sequence[Example], num_test: int, seed: int, *, leave_one: bool
) -> list[Example]:
    """About `num_test` examples, whole groups only, each category by its share of all.

    Args:
        num_test: never exceeded; missed by little, where a group is larger than what is missing.
        leave_one: the rest is for training, so take no category's last group.
    """
    by_category: dict[str, dict[str, list[Example]]] = defaultdict(lambda: defaultdict(list))
    category_of: dict[str, str] = {}
    for example in examples:  # a group whose rows disagree goes with its first row
        category = category_of.setdefault(example.group, example.category)
        by_category[category][example.group].append(example)
    sizes = {c: sum(map(len, groups.values())) for c, groups in by_category.items()}
    quotas = _shares(sizes, min(num_test, len(examples)))
    drawn: set[str] = set()
    for category in sorted(by_category):
        groups = by_category[category]
        order = sorted(groups)
        random.Random(f"{seed}:{category}").shuffle(order)
        room = quotas[category]
        for group in order[:-1] if leave_one else order:
            if len(groups[group]) <= room:
                drawn.add(group)
                room -= len(groups[group])
    return [example for example in examples if example.group in drawn]


def draw_validation(
    unused: Sequence[Example], taken: Iterable[Example], seed: int
) -> list[Example]:
    """Of what no part needs, rows without a near-duplicate in one; each category by its share."""
    free = outside(unused, groups_of(taken))
    return draw_test(free, MAX_VALIDATION, seed, leave_one=False) if free else []


def mark_apart(test: Sequence[Example], train: Sequence[Example]) -> list[Example]:
    """The test rows, with `apart` set where training knows neither their subject nor their body."""
    subjects = {mask(example.message.subject) for example in train}
    bodies = {mask(example.message.body) for example in train}
    return [
        replace(
            example,
            apart=mask(example.message.subject) not in subjects - {""}
            and mask(example.message.body) not in bodies - {""},
        )
        for example in test
    ]


def disagreements(examples: Iterable[Example]) -> int:
    """How many groups have rows of more than one category: labels worth a look."""
    labels: dict[str, set[str]] = defaultdict(set)
    for example in examples:
        labels[example.group].add(example.category)
    return sum(1 for found in labels.values() if len(found) > 1)


def by_category(examples: Iterable[Example], keys: Sequence[str]) -> dict[str, int]:
    """How many examples each category has, in the order of `keys`, zeros included."""
    counts = Counter(example.category for example in examples)
    return {key: counts[key] for key in keys}


def _shares(sizes: dict[str, int], total: int) -> dict[str, int]:
    """`total` divided in proportion to `sizes`, by largest remainder, so that it adds up."""
    all_rows = sum(sizes.values())
    exact = {key: total * size / all_rows for key, size in sizes.items()}
    shares = {key: int(share) for key, share in exact.items()}
    by_remainder = sorted(exact, key=lambda key: (shares[key] - exact[key], key))
    for key in by_remainder[: total - sum(shares.values())]:
        shares[key] += 1
    return shares
