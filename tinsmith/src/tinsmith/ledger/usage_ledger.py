"""What projects take, as methods of the ledger."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from sqlalchemy import Select, bindparam, func, select

from tinsmith.ledger.ledger_file import LedgerFile
from tinsmith.ledger.schema import checkpoints, ops, runs, snapshots

# What intake asks often is built once: building costs more than executing.
_OWNER = bindparam("by_owner")
_LIVE_RUNS = (
    select(func.count()).select_from(runs).where(runs.c.owner == _OWNER, runs.c.is_ended.is_(False))
)
_STORED = select(func.coalesce(func.sum(checkpoints.c.size_bytes), 0)).where(
    checkpoints.c.owner == _OWNER
)
_QUEUED = select(func.coalesce(func.sum(func.length(ops.c.payload)), 0)).where(
    ops.c.owner == _OWNER, ops.c.settled_at.is_(None)
)


@dataclass(frozen=True, slots=True)
class DiskShare:
    """What one project has on disk by the catalogue, in bytes."""

    owner: str
    checkpoints: int
    snapshots: int


class UsageLedger(LedgerFile):
    def num_live_runs(self, owner: str) -> int:
        """Runs that have not ended."""
        return self._number(_LIVE_RUNS, owner)

    def stored_bytes(self, owner: str) -> int:
        """All checkpoints, unlisted and expired ones too as long as they are there."""
        return self._number(_STORED, owner)

    def queued_bytes(self, owner: str) -> int:
        """Payloads of ops that are not settled."""
        return self._number(_QUEUED, owner)

    def disk_shares(self) -> list[DiskShare]:
        """Of every project that has something, by name."""
        stored = select(checkpoints.c.owner, func.sum(checkpoints.c.size_bytes)).group_by(
            checkpoints.c.owner
        )
        kept = (
            select(runs.c.owner, func.sum(snapshots.c.size_bytes))
            .join(runs, runs.c.run_id == snapshots.c.run_id)
            .group_by(runs.c.owner)
        )
        with self._read() as connection:
            of_checkpoints = {owner: int(size) for owner, size in connection.execute(stored)}
            of_snapshots = {owner: int(size) for owner, size in connection.execute(kept)}
        return [
            DiskShare(owner, of_checkpoints.get(owner, 0), of_snapshots.get(owner, 0))
            for owner in sorted(of_checkpoints | of_snapshots)
        ]

    def _number(self, query: Select[Any], owner: str) -> int:
        with self._read() as connection:
            return int(connection.execute(query, {"by_owner": owner}).scalar_one())
