"""The durable truth: sessions, runs, the log of ops, samplers, checkpoints, leases."""

from __future__ import annotations

from pathlib import Path

from tinsmith.ledger.audit_ledger import AuditLedger
from tinsmith.ledger.checkpoint_ledger import CheckpointLedger
from tinsmith.ledger.database import database_of
from tinsmith.ledger.history_ledger import HistoryLedger
from tinsmith.ledger.migrations import bring_up_to_date
from tinsmith.ledger.op_ledger import OpLedger
from tinsmith.ledger.project_ledger import ProjectLedger
from tinsmith.ledger.run_ledger import RunLedger
from tinsmith.ledger.session_ledger import SessionLedger
from tinsmith.ledger.usage_ledger import UsageLedger


class Ledger(
    SessionLedger,
    OpLedger,
    RunLedger,
    HistoryLedger,
    CheckpointLedger,
    ProjectLedger,
    AuditLedger,
    UsageLedger,
):
    """One open ledger. Every method may be called from any thread; when one that writes returns,
    what it wrote is on disk. Several processes may have the same ledger open.

    All methods raise StorageError when the disk or the database refuses; nothing of that call
    was kept then.
    """

    @classmethod
    def open(cls, url_or_path: str | Path) -> Ledger:
        """Open the ledger in this SQLite file, or at this sqlite:/// or postgresql:// URL, made
        or migrated as needed.

        Raises:
            StorageError: it cannot be opened, or a newer tinsmith wrote it.
            InvalidInputError: PostgreSQL's driver is not installed.
        """
        ledger = cls(database_of(url_or_path))
        try:
            ledger._write(bring_up_to_date)
        except BaseException:
            ledger.close()
            raise
        return ledger
