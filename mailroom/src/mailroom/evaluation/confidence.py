"""Whether a confidence means what it says: of mail that a model is 80 % sure of, is 80 % right?"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from mailroom.decision.calibration import calibrated

NUM_BINS = 15
"""As in Guo et al., 2017."""


@dataclass(frozen=True, slots=True)
class Confidence:
    temperature: float
    """What the model's scores were divided by; 1: as the model has them."""
    ece: float
    """Expected calibration error: mean distance between confidence and share of right ones."""
    brier: float
    """Mean squared distance of the probabilities from 1 for the right category and 0 for others."""
    ece_uncalibrated: float
    brier_uncalibrated: float

    def as_json(self) -> dict[str, Any]:
        return asdict(self)


def score_confidence(
    probabilities: Sequence[Mapping[str, float]], expected: Sequence[str], temperature: float
) -> Confidence:
    """
    Args:
        probabilities: by category, as calibrated with `temperature`.
    """
    raw = [calibrated(one, 1.0 / temperature) for one in probabilities]
    return Confidence(
        temperature,
        calibration_error(probabilities, expected),
        brier_score(probabilities, expected),
        calibration_error(raw, expected),
        brier_score(raw, expected),
    )


def calibration_error(
    probabilities: Sequence[Mapping[str, float]], expected: Sequence[str]
) -> float:
    """Mean over equally wide bins of confidence, by their number of predictions, of the distance
    between mean confidence and share of right ones (Naeini et al., 2015)."""
    bins: dict[int, list[tuple[float, bool]]] = {}
    for one, want in zip(probabilities, expected, strict=True):
        likeliest = max(one, key=one.__getitem__)
        place = min(NUM_BINS - 1, int(one[likeliest] * NUM_BINS))
        bins.setdefault(place, []).append((one[likeliest], likeliest == want))
    gaps = (abs(sum(p - is_right for p, is_right in held)) for held in bins.values())
    return math.fsum(gaps) / len(expected)


def brier_score(probabilities: Sequence[Mapping[str, float]], expected: Sequence[str]) -> float:
    """0 is best, 2 is worst (Brier, 1950)."""
    distances = (
        (p - (key == want)) ** 2
        for one, want in zip(probabilities, expected, strict=True)
        for key, p in one.items()
    )
    return math.fsum(distances) / len(expected)
