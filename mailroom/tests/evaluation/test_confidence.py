import random

import numpy as np
import pytest
from mailroom.decision.calibration import calibrated
from mailroom.evaluation.confidence import brier_score, calibration_error, score_confidence
from sklearn.calibration import calibration_curve
from sklearn.metrics import brier_score_loss


def two_categories(num: int) -> tuple[list[dict[str, float]], list[str]]:
    draw = random.Random(1)
    predictions = [{"a": p, "b": 1 - p} for p in (draw.random() for _ in range(num))]
    return predictions, [draw.choice("ab") for _ in range(num)]


def test_the_calibration_error_is_that_of_scikit_learns_bins():
    predictions, expected = two_categories(500)
    confidence = np.array([max(one.values()) for one in predictions])
    is_right = np.array(
        [max(one, key=one.__getitem__) == w for one, w in zip(predictions, expected, strict=True)]
    )
    shares, means = calibration_curve(is_right, confidence, n_bins=15)
    counts, _ = np.histogram(confidence, bins=np.linspace(0, 1, 16))
    theirs = np.abs(shares - means) @ counts[counts > 0] / len(expected)

    assert calibration_error(predictions, expected) == pytest.approx(theirs)


def test_the_brier_score_is_scikit_learns_for_both_categories():
    predictions, expected = two_categories(50)
    theirs = brier_score_loss([e == "a" for e in expected], [one["a"] for one in predictions])

    assert brier_score(predictions, expected) == pytest.approx(2 * theirs)


def test_certain_predictions_score_at_the_ends():
    sure = [{"a": 1.0, "b": 0.0}]

    assert (calibration_error(sure, ["a"]), brier_score(sure, ["a"])) == (0.0, 0.0)
    assert (calibration_error(sure, ["b"]), brier_score(sure, ["b"])) == (1.0, 2.0)


def test_both_figures_are_given_with_and_without_the_temperature():
    raw, expected = two_categories(100)

    found = score_confidence([calibrated(one, 3.0) for one in raw], expected, 3.0)

    assert found.temperature == 3.0
    assert found.ece_uncalibrated == pytest.approx(calibration_error(raw, expected))
    assert found.brier_uncalibrated == pytest.approx(brier_score(raw, expected))
    assert found.brier < found.brier_uncalibrated, "labels are drawn, so less sure is better"
