"""A run's history, as methods of the ledger."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

from sqlalchemy import Connection

from tinsmith.domain.ops import Op
from tinsmith.domain.records import Snapshot
from tinsmith.ledger import history, run_rows
from tinsmith.ledger.entries import LeaseLostError, LoggedOp
from tinsmith.ledger.ledger_file import LedgerFile
from tinsmith.ledger.schema import RELEASE_SEQ_ID

_RESULTS_PER_SWEEP = 100


class HistoryLedger(LedgerFile):
    def history(
        self, run_id: str, *, after: int = -1, up_to: int = RELEASE_SEQ_ID
    ) -> list[LoggedOp]:
        """The run's ops behind seq_id `after`, in order, without what they hold."""
        with self._read() as connection:
            return history.list_ops(connection, run_id, after, up_to)

    def logged_op(self, run_id: str, seq_id: int) -> Op | None:
        """What was asked for there; None if it is kept no longer."""
        with self._read() as connection:
            return history.read_payload(connection, run_id, seq_id)

    def payload_sizes(self, run_id: str) -> dict[int, int]:
        """Bytes of the run's ops, by seq_id, as far as they are kept."""
        with self._read() as connection:
            return history.payload_sizes(connection, run_id)

    def snapshots(self, run_id: str) -> list[Snapshot]:
        """Newest first."""
        with self._read() as connection:
            return history.list_snapshots(connection, run_id)

    def snapshot_files(self, base_model: str) -> set[str]:
        """The files that are named by snapshots of its runs."""
        with self._read() as connection:
            return history.snapshot_files(connection, base_model)

    def put_snapshot(self, snapshot: Snapshot, *, base_model: str, lease_epoch: int) -> None:
        """Enter a snapshot whose file is on disk and whose op is settled.

        Raises:
            LeaseLostError: another engine has taken over; nothing was written.
        """

        def put(connection: Connection) -> None:
            if history.current_epoch(connection, base_model) != lease_epoch:
                raise LeaseLostError(f"the engine of {base_model} has been replaced")
            history.put_snapshot(connection, snapshot)

        self._write(put)

    def drop_snapshots(self, run_id: str, seq_ids: Sequence[int], *, payloads_up_to: int) -> None:
        """Forget these snapshots, and the payloads of settled ops up to a place that a snapshot
        which stays covers (-1: none)."""

        def drop(connection: Connection) -> None:
            history.drop_snapshots(connection, run_id, seq_ids)
            if payloads_up_to >= 0:
                history.drop_payloads(connection, run_id, payloads_up_to)

        self._write(drop)

    def drop_ended_history(self, before: datetime) -> list[str]:
        """Forget what runs whose sessions ended before that time were fed and answered, and their
        snapshots, a run at a time; the snapshots' files, which nothing names any more."""

        def drop(connection: Connection) -> list[str] | None:
            run_id = history.spent_run(connection, before)
            return None if run_id is None else history.drop_history(connection, run_id)

        files: list[str] = []
        while (dropped := self._write(drop)) is not None:
            files += dropped
        return files

    def drop_training_results(self, before: datetime) -> int:
        """Forget what training ops settled before that time answered; how many there were."""
        return self._repeatedly(
            _RESULTS_PER_SWEEP,
            lambda connection, limit: history.drop_results(connection, before, limit),
        )

    def mark_inexact(self, run_id: str, why: str) -> None:
        """Note that a replay of the run gave other bits than the first time. The first note
        stands."""

        def mark(connection: Connection) -> None:
            run = run_rows.find_run(connection, run_id)
            if run is not None and run.inexact is None:
                run_rows.update_run(connection, run_id, inexact=why)

        self._write(mark)
