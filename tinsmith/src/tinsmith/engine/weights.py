"""The projects' weights, as the ledger has them."""

from __future__ import annotations

import time

from tinsmith.ledger.ledger import Ledger
from tinsmith.scheduler.fair_share import Weights

READ_EVERY_S = 5.0


class ProjectWeights:
    """By project; only those who have another than 1."""

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger
        self._weights: dict[str, float] = {}
        self._read_at = float("-inf")
        self.read_now_and_then()

    @property
    def by_project(self) -> Weights:
        """Changes in place when they are read again."""
        return self._weights

    def read_now_and_then(self) -> None:
        """Read them again if that is some seconds ago. Not for between two decode steps: it asks
        the database."""
        now = time.monotonic()
        if now - self._read_at < READ_EVERY_S:
            return
        self._read_at = now
        weights = {one.name: one.weight for one in self._ledger.projects() if one.weight != 1.0}
        self._weights.clear()
        self._weights.update(weights)
