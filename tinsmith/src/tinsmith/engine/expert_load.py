"""How evenly a batch's tokens spread over the experts: the metrics that the SDK documents for
mixtures of experts (tinker.types.ForwardBackwardOutput, 0.38).

Shape suffixes: L layers with experts, E experts.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import numpy as np

from tinsmith.nn.experts import AdapterExperts


class ExpertLoad:
    """Counts of one forward_backward, over all its micro-batches.

    A prefix that is computed once for several datums counts once.
    """

    def __init__(self, layers: Sequence[AdapterExperts]) -> None:
        self._layers = layers
        self._counts = [[0] * layer.num_experts for layer in layers]

    @contextmanager
    def counting(self) -> Iterator[None]:
        """Count what goes through the layers meanwhile; not what backward computes again."""
        try:
            for layer, counts in zip(self._layers, self._counts, strict=True):
                layer.tokens_of_expert = counts
            yield
        finally:
            for layer in self._layers:
                layer.tokens_of_expert = None

    def metrics(self) -> dict[str, float]:
        """Empty for a model without experts, and where no token went through them."""
        if not self._counts or not any(self._counts[0]):
            return {}
        count_LE = np.array(self._counts, dtype=np.float64)
        violation_LE = count_LE / count_LE.mean(axis=1, keepdims=True) - 1.0
        most_L = violation_LE.max(axis=1)
        return {
            "e_frac_with_tokens:mean": float((count_LE > 0).mean()),
            "e_frac_oversubscribed:mean": float((violation_LE > 0).mean()),
            "e_max_violation:mean": float(most_L.mean()),
            "e_max_violation:max": float(most_L.max()),
            "e_min_violation:mean": float(violation_LE.min(axis=1).mean()),
        }
