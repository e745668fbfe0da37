"""The audit log, as methods of the ledger."""

from __future__ import annotations

from datetime import datetime

from tinsmith.domain.audit import AuditEntry
from tinsmith.ledger import audit_rows
from tinsmith.ledger.ledger_file import LedgerFile

SWEPT_AT_ONCE = 1000


class AuditLedger(LedgerFile):
    def note(self, entry: AuditEntry) -> None:
        """Enter it with the next group of writes; does not wait for that. What a crash takes along
        is at most the entries of the answers that went out in the last moment."""
        self._write_later(lambda connection: audit_rows.insert_entry(connection, entry))

    def audit(
        self,
        project: str | None = None,
        *,
        action_prefix: str = "",
        since: datetime | None = None,
        until: datetime | None = None,
        limit: int,
    ) -> list[AuditEntry]:
        """The newest entries that fit, oldest first."""
        with self._read() as connection:
            return audit_rows.list_entries(
                connection,
                project=project,
                action_prefix=action_prefix,
                since=since,
                until=until,
                limit=limit,
            )

    def sweep_audit(self, kept_from: datetime) -> int:
        """Drop what is older; how much that was."""
        return self._repeatedly(
            SWEPT_AT_ONCE,
            lambda connection, limit: audit_rows.drop_before(connection, kept_from, limit),
        )
