"""What the projects may have in an engine's memory and on the disk, as the ledger says it."""

from __future__ import annotations

import time

from tinsmith.config import Quotas
from tinsmith.domain.quota_rules import check_stored
from tinsmith.ledger.ledger import Ledger

REMEMBERED_S = 2.0
"""A changed quota is felt so much later at most."""


class ProjectQuotas:
    def __init__(self, ledger: Ledger, defaults: Quotas) -> None:
        self._ledger = ledger
        self._defaults = defaults
        self._owners: dict[str, str] = {}
        self._known: dict[str, tuple[Quotas, float]] = {}

    def owner(self, run_id: str) -> str:
        """The project that a run belongs to."""
        known = self._owners.get(run_id)
        if known is None:
            run = self._ledger.run(run_id)
            assert run is not None, run_id
            known = self._owners[run_id] = run.owner
        return known

    def resident_adapters(self, owner: str) -> int:
        """How many a project may have in memory at once. 0: as many as there is room for."""
        return self._of(owner).resident_adapters

    def check_stored(self, owner: str) -> None:
        """Raises InvalidInputError if the project may not store one more checkpoint: intake has
        asked, but not known of those that were waiting then."""
        allowed = self._of(owner).stored_bytes
        if allowed:
            check_stored(self._ledger.stored_bytes(owner), allowed)

    def _of(self, owner: str) -> Quotas:
        known = self._known.get(owner)
        if known is None or time.monotonic() - known[1] >= REMEMBERED_S:
            project = self._ledger.project(owner)
            quotas = self._defaults if project is None else self._defaults.overlaid(project.quotas)
            known = self._known[owner] = quotas, time.monotonic()
        return known[0]
