"""The catalogue of checkpoints, as methods of the ledger."""

from __future__ import annotations

from datetime import UTC, datetime

from tinsmith.domain.addresses import CheckpointAddress, CheckpointKind
from tinsmith.domain.records import Checkpoint, Run, StorageUse
from tinsmith.ledger import adoption, checkpoint_rows
from tinsmith.ledger.ledger_file import LedgerFile


class CheckpointLedger(LedgerFile):
    def checkpoint(self, address: CheckpointAddress) -> Checkpoint | None:
        """The catalogue row, expired or not."""
        with self._read() as connection:
            return checkpoint_rows.find_checkpoint(connection, address)

    def visible_checkpoint(self, address: CheckpointAddress, owner: str) -> Checkpoint | None:
        """The checkpoint, if it has not expired and is the owner's own or public."""
        found = self.checkpoint(address)
        if found is None or not (found.is_public or found.owner == owner):
            return None
        is_kept = found.expires_at is None or found.expires_at > datetime.now(UTC)
        return found if is_kept else None

    def checkpoints(
        self,
        owner: str | None = None,
        run_id: str | None = None,
        *,
        limit: int | None = None,
        offset: int = 0,
    ) -> tuple[list[Checkpoint], int]:
        """One page of those listed and not expired, newest first, and how many there are."""
        with self._read() as connection:
            return checkpoint_rows.list_checkpoints(
                connection, owner=owner, run_id=run_id, kind=None, limit=limit, offset=offset
            )

    def last_checkpoint(self, run_id: str, kind: CheckpointKind) -> Checkpoint | None:
        """The newest one listed of that kind."""
        with self._read() as connection:
            found, _ = checkpoint_rows.list_checkpoints(
                connection, owner=None, run_id=run_id, kind=kind, limit=1, offset=0
            )
        return found[0] if found else None

    def adopt(
        self,
        run: Run,
        checkpoint: Checkpoint,
        *,
        how: str,
        project_id: str | None = None,
        idempotency_key: str | None = None,
    ) -> None:
        """Enter a checkpoint whose bytes are there, with an ended run and session of its own that
        say `how` it came to be. Nobody can train that run on; new runs may start from it.
        """
        self._write(
            lambda connection: adoption.adopt(
                connection, run, checkpoint, how, project_id, idempotency_key
            )
        )

    def adopted_before(self, owner: str, idempotency_key: str) -> CheckpointAddress | None:
        """What `adopt` made under this key, while it is there."""
        with self._read() as connection:
            found = adoption.adopted_before(connection, owner, idempotency_key)
        return None if found is None else CheckpointAddress.parse(found)

    def storage_use(self, owner: str, project_id: str | None = None) -> list[StorageUse]:
        """By project, or of that one alone."""
        with self._read() as connection:
            return checkpoint_rows.storage_use(connection, owner, project_id)

    def set_expiry(self, address: CheckpointAddress, expires_at: datetime | None) -> bool:
        """False if there is no such checkpoint."""
        return self._write(
            lambda connection: checkpoint_rows.update_checkpoint(
                connection, address, expires_at=expires_at
            )
        )

    def set_public(self, address: CheckpointAddress, is_public: bool) -> bool:
        """False if there is no such checkpoint."""
        return self._write(
            lambda connection: checkpoint_rows.update_checkpoint(
                connection, address, is_public=is_public
            )
        )

    def delete_checkpoint(self, address: CheckpointAddress) -> bool:
        """Remove the catalogue row; False if there is none."""
        return self._write(
            lambda connection: checkpoint_rows.delete_checkpoint(connection, address)
        )

    def expired_checkpoints(self, now: datetime) -> list[Checkpoint]:
        """Those whose time has come, and the unlisted ones of ended sessions."""
        with self._read() as connection:
            return checkpoint_rows.expired_checkpoints(connection, now)
