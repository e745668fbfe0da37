import math
import random

import pytest
from mailroom.decision.calibration import calibrated, fit_temperature

KEYS = ("a", "b", "c")


def overconfident(num: int, factor: float) -> tuple[list[dict[str, float]], list[str]]:
    """Predictions whose log-probabilities are `factor` times those the labels are drawn by."""
    draw = random.Random(0)
    predictions, labels = [], []
    for _ in range(num):
        scores = {key: draw.gauss(0, 1.5) for key in KEYS}
        true = calibrated({key: math.exp(value) for key, value in scores.items()}, 1.0)
        total = sum(true.values())
        true = {key: value / total for key, value in true.items()}
        labels.append(draw.choices(KEYS, [true[key] for key in KEYS])[0])
        predictions.append(calibrated(true, 1 / factor))
    return predictions, labels


@pytest.mark.parametrize("factor", [0.5, 1.0, 3.0])
def test_the_temperature_undoes_what_was_multiplied(factor):
    predictions, labels = overconfident(4000, factor)

    # The standard error of the fit is about 3 % with so many labels.
    assert fit_temperature(predictions, labels) == pytest.approx(factor, rel=0.1)


def test_a_temperature_divides_scores_before_the_softmax():
    scores = {"a": 2.0, "b": -1.0, "c": 0.5}

    def softmax(temperature: float) -> dict[str, float]:
        weights = {key: math.exp(value / temperature) for key, value in scores.items()}
        return {key: weight / sum(weights.values()) for key, weight in weights.items()}

    assert calibrated(softmax(1.0), 2.5) == pytest.approx(softmax(2.5))
    assert calibrated(calibrated(softmax(1.0), 2.5), 1 / 2.5) == pytest.approx(softmax(1.0))


def test_certainties_and_impossibilities_stay_what_they_are():
    assert calibrated({"a": 1.0, "b": 0.0}, 1.5) == pytest.approx({"a": 1.0, "b": 0.0})


def test_too_few_examples_tell_nothing():
    predictions, labels = overconfident(49, 3.0)

    assert fit_temperature(predictions, labels) is None


def test_a_model_that_is_always_right_tells_no_temperature():
    predictions, _ = overconfident(200, 1.0)
    labels = [max(one, key=one.__getitem__) for one in predictions]

    assert fit_temperature(predictions, labels) is None


def test_labels_that_have_nothing_to_do_with_the_scores_tell_no_temperature():
    predictions, _ = overconfident(200, 20.0)
    labels = [KEYS[n % 3] for n in range(200)]

    assert fit_temperature(predictions, labels) is None
