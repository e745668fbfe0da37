import pytest
from mailroom.decision.prediction import Prediction
from mailroom.evaluation.scores import (
    confusion,
    macro_f1,
    score_categories,
    score_written,
    wilson_interval,
)
from mailroom.taxonomy import Answer
from sklearn.metrics import f1_score


def answer(category: str, priority: str = "Low") -> Answer:
    return Answer(category, priority, ("Read",), None)  # type: ignore[arg-type]


def written(found: Answer | None, *, num_tokens: int = 50, stopped: bool = True) -> Prediction:
    return Prediction(text="", answer=found, num_tokens=num_tokens, stopped=stopped)


def test_written_answers_are_counted_over_all_examples():
    expected = [
        answer("spam"),
        answer("spam"),
        answer("personal", "High"),
        answer("personal", "High"),
    ]
    given = [
        written(answer("spam")),
        written(None, num_tokens=160, stopped=False),
        written(answer("personal", "Low")),
        written(answer("spam", "High")),
    ]

    scores = score_written(expected, given)

    assert scores.examples == 4
    assert scores.format == 0.75
    assert scores.category == 0.5
    assert scores.priority == 0.5
    assert scores.priority_given_category == 0.5
    assert scores.stopped == 0.75
    assert scores.mean_tokens == 77.5


def test_no_right_category_leaves_its_priority_unsaid():
    scores = score_written([answer("spam")], [written(None)])

    assert scores.category == 0.0 and scores.priority_given_category is None


def test_no_examples_give_no_shares():
    scores = score_written([], [])

    assert scores.examples == 0 and scores.category is None and scores.macro_f1 is None
    assert scores.category_interval is None


def test_what_only_names_categories_has_their_priority_and_no_format():
    scores = score_categories(
        ["a", "b", "c", "c"], ["a", None, "a", "b"], {"a": "Low", "b": "High", "c": "Low"}
    )

    assert scores.as_json() == {
        "examples": 4,
        "format": None,
        "category": 0.25,
        "category_interval": pytest.approx((0.0456, 0.6994), abs=1e-4),
        "priority": 0.5,
        "priority_given_category": 1.0,
        "macro_f1": pytest.approx(2 / 9),
        "stopped": None,
        "mean_tokens": None,
    }


def test_macro_f1_is_scikit_learns_over_the_categories_that_occur():
    expected = ["a", "a", "a", "b", "b", "c"]
    given = ["a", "b", "d", "b", None, "c"]

    theirs = f1_score(
        expected, [g or "none" for g in given], labels=["a", "b", "c"], average="macro"
    )

    assert macro_f1(expected, given) == pytest.approx(theirs)


@pytest.mark.parametrize(
    ("successes", "total", "low", "high"),
    # Newcombe 1998, table I, method 3 (Wilson): the published intervals.
    [(81, 263, 0.2553, 0.3662), (15, 148, 0.0624, 0.1605), (0, 20, 0.0, 0.1611),
     (1, 29, 0.0061, 0.1718)],
)  # fmt: skip
def test_the_interval_is_wilsons(successes, total, low, high):
    assert wilson_interval(successes, total) == pytest.approx((low, high), abs=5e-5)


def test_an_interval_never_leaves_zero_to_one():
    assert wilson_interval(10, 10)[1] == 1.0 and wilson_interval(0, 10)[0] == 0.0


def test_the_confusion_table_is_full_and_adds_up():
    table = confusion(["a", "a", "b"], ["a", None, "a"], ["a", "b", "c"])

    assert table == {
        "a": {"a": 1, "b": 0, "c": 0, "none": 1},
        "b": {"a": 1, "b": 0, "c": 0, "none": 0},
        "c": {"a": 0, "b": 0, "c": 0, "none": 0},
    }
