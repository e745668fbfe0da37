"""Probabilities that mean what they say: of mail that a model is 80 % sure of, 80 % is right.

One number does it: the temperature that scores are divided by before the softmax. It changes no
order, so no category changes.

Method: Guo et al., "On Calibration of Modern Neural Networks", 2017, section 4.2.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

MIN_EXAMPLES = 50
"""Fewer tell too little about how sure a model may be."""
MIN_WRONG = 3
"""Without errors there is nothing that could say how often a sure answer is wrong."""
LOWEST, HIGHEST = 0.25, 16.0
"""Temperatures outside are no calibration but a sign that something else is wrong."""
SMALLEST = 1e-300


def calibrated(probabilities: Mapping[str, float], temperature: float) -> dict[str, float]:
    """The softmax of log p / temperature: what scores divided by it would have given.

    With 1 / temperature it undoes itself.
    """
    if temperature == 1.0:
        return dict(probabilities)
    logs = {key: math.log(max(p, SMALLEST)) / temperature for key, p in probabilities.items()}
    highest = max(logs.values())
    weights = {key: math.exp(value - highest) for key, value in logs.items()}
    total = math.fsum(weights.values())
    return {key: weight / total for key, weight in weights.items()}


def fit_temperature(
    probabilities: Sequence[Mapping[str, float]], expected: Sequence[str]
) -> float | None:
    """The temperature under which the expected categories are likeliest, or None.

    None: too few examples, too few errors among them, or no temperature within bounds is best.

    Args:
        probabilities: of examples that training has not seen, not calibrated yet.
        expected: their right categories.
    """
    pairs = list(zip(probabilities, expected, strict=True))
    num_wrong = sum(max(one, key=one.__getitem__) != want for one, want in pairs)
    if len(pairs) < MIN_EXAMPLES or num_wrong < MIN_WRONG:
        return None

    def loss(log_temperature: float) -> float:
        temperature = math.exp(log_temperature)
        right = (calibrated(one, temperature)[want] for one, want in pairs)
        return -math.fsum(math.log(max(p, SMALLEST)) for p in right)

    from scipy.optimize import minimize_scalar  # here: it takes a second, and reading needs none

    # Convex in 1 / temperature, so with a single lowest point in its logarithm too.
    bounds = math.log(LOWEST), math.log(HIGHEST)
    found: Any = minimize_scalar(loss, bounds=bounds, method="bounded")
    temperature = math.exp(found.x)
    return temperature if 1.01 * LOWEST < temperature < HIGHEST / 1.01 else None
