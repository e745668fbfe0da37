"""How good a set of answers is. Pure: expected and given answers in, shares out.

SCORES is one shape for every way of answering; what a way cannot have is None (a word-count model
writes nothing, so it has no format).
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from mailroom.decision.prediction import Prediction
from mailroom.taxonomy import Answer

NO_ANSWER = "none"
"""Column of the confusion matrix for answers that do not follow the form."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Scores:
    examples: int
    format: float | None
    """Share that follows the four-step form to the letter."""
    category: float | None
    """Share with the right category; an answer that breaks the form counts as wrong."""
    category_interval: tuple[float, float] | None
    """95 % Wilson interval of `category`."""
    priority: float | None
    priority_given_category: float | None
    """Among those with the right category; None if there are none."""
    macro_f1: float | None
    """Mean of the F1 of each category that occurs in the expected answers."""
    stopped: float | None
    """Share that the model ended by itself."""
    mean_tokens: float | None

    def as_json(self) -> dict[str, Any]:
        return asdict(self)


def score_written(expected: Sequence[Answer], predictions: Sequence[Prediction]) -> Scores:
    """Scores of free greedy generation."""
    answers = [prediction.answer for prediction in predictions]
    given = [answer.category if answer else None for answer in answers]
    total = len(expected)
    right = [
        (want, got)
        for want, got in zip(expected, answers, strict=True)
        if got is not None and got.category == want.category
    ]
    return Scores(
        examples=total,
        format=_share(sum(answer is not None for answer in answers), total),
        priority=_share(
            sum(
                got is not None and got.priority == want.priority
                for want, got in zip(expected, answers, strict=True)
            ),
            total,
        ),
        priority_given_category=_share(
            sum(got.priority == want.priority for want, got in right), len(right)
        ),
        stopped=_share(sum(prediction.stopped for prediction in predictions), total),
        mean_tokens=_share(sum(prediction.num_tokens for prediction in predictions), total),
        **_category_scores([answer.category for answer in expected], given),
    )


def score_categories(
    expected: Sequence[str], given: Sequence[str | None], priorities: Mapping[str, str]
) -> Scores:
    """Scores of anything that only names categories: the scored closed set, and the baselines.

    Args:
        priorities: the taxonomy's, by category, which the category named brings with it.
    """
    pairs = list(zip(expected, given, strict=True))
    right = [(want, got) for want, got in pairs if want == got]
    return Scores(
        examples=len(expected),
        format=None,
        priority=_same_priority(pairs, priorities),
        priority_given_category=_same_priority(right, priorities),
        stopped=None,
        mean_tokens=None,
        **_category_scores(expected, given),
    )


def confusion(
    expected: Sequence[str], given: Sequence[str | None], keys: Sequence[str]
) -> dict[str, dict[str, int]]:
    """Expected category -> given category or NO_ANSWER -> how often; a full table."""
    pairs = Counter(zip(expected, given, strict=True))
    return {want: {got or NO_ANSWER: pairs[want, got] for got in (*keys, None)} for want in keys}


def wilson_interval(successes: int, total: int) -> tuple[float, float]:
    """95 % confidence interval of a share (Wilson, 1927)."""
    z = 1.959963984540054
    share = successes / total
    centre = share + z * z / (2 * total)
    spread = z * math.sqrt(share * (1 - share) / total + z * z / (4 * total * total))
    scale = 1 + z * z / total
    low = (centre - spread) / scale if successes else 0.0
    high = (centre + spread) / scale if successes < total else 1.0
    return low, high


def macro_f1(expected: Sequence[str], given: Sequence[str | None]) -> float | None:
    """Mean F1 over the categories that occur in `expected`."""
    if not expected:
        return None
    hits = Counter(want for want, got in zip(expected, given, strict=True) if want == got)
    wanted, named = Counter(expected), Counter(given)
    scores = [2 * hits[key] / (wanted[key] + named[key]) for key in wanted]
    return math.fsum(scores) / len(scores)


def _category_scores(expected: Sequence[str], given: Sequence[str | None]) -> Mapping[str, Any]:
    right = sum(want == got for want, got in zip(expected, given, strict=True))
    return {
        "category": _share(right, len(expected)),
        "category_interval": wilson_interval(right, len(expected)) if expected else None,
        "macro_f1": macro_f1(expected, given),
    }


def _same_priority(
    pairs: Sequence[tuple[str, str | None]], priorities: Mapping[str, str]
) -> float | None:
    same = sum(got is not None and priorities.get(got) == priorities[want] for want, got in pairs)
    return _share(same, len(pairs))


def _share(part: int, whole: int) -> float | None:
    return part / whole if whole else None
