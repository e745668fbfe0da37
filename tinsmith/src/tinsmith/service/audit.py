"""Who did what, noted and read."""

from __future__ import annotations

from datetime import UTC, date, datetime, time, timedelta

from tinsmith.domain.audit import AuditEntry
from tinsmith.domain.records import Caller
from tinsmith.ledger.ledger import Ledger

MAX_OF_A_DAY = 10_000


class Audit:
    def __init__(self, ledger: Ledger, retention_s: float) -> None:
        self._ledger = ledger
        self._retention = timedelta(seconds=retention_s)

    def note(
        self, caller: Caller, address: str | None, action: str, object_id: str | None, status: int
    ) -> None:
        """Enter what the caller did, or was refused; does not wait for the disk."""
        self._ledger.note(
            AuditEntry(
                datetime.now(UTC), caller.owner, caller.key_id, address, action, object_id, status
            )
        )

    def of_day(
        self, caller: Caller, day: date | None = None, *, action_prefix: str = ""
    ) -> list[AuditEntry]:
        """What was done in the caller's project from midnight to midnight UTC, today unless said
        otherwise; oldest first, and of more than 10,000 the newest."""
        start = datetime.combine(day or datetime.now(UTC).date(), time(), UTC)
        return self._ledger.audit(
            caller.owner,
            action_prefix=action_prefix,
            since=start,
            until=start + timedelta(days=1),
            limit=MAX_OF_A_DAY,
        )

    def sweep(self) -> int:
        """Drop what is older than it has to be kept; how much that was."""
        return self._ledger.sweep_audit(datetime.now(UTC) - self._retention)
