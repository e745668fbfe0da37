"""What goes, and when: silent sessions, expired checkpoints, old results and histories."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from tinsmith import config
from tinsmith.checkpoints.snapshots import SnapshotStore
from tinsmith.checkpoints.store import CheckpointStore
from tinsmith.ledger.ledger import Ledger
from tinsmith.service.sessions import Sessions


@dataclass(frozen=True, slots=True)
class Swept:
    """What one round of tidying up did."""

    sessions_ended: int
    checkpoints_deleted: int
    results_dropped: int
    snapshots_dropped: int


class Retention:
    def __init__(
        self,
        ledger: Ledger,
        store: CheckpointStore,
        snapshots: SnapshotStore,
        sessions: Sessions,
        settings: config.Service,
        recovery: config.Recovery,
    ) -> None:
        self._ledger = ledger
        self._store = store
        self._snapshots = snapshots
        self._sessions = sessions
        self._settings = settings
        self._recovery = recovery

    def sweep(self) -> Swept:
        """Tidy up; meant to be called once a minute or so.

        Ends sessions that have been silent for too long, deletes expired checkpoints and, of ended
        sessions, the unnamed ones, and drops what nobody can ask for any more: results, and the
        histories of runs whose sessions are over.
        """
        num_ended = self._sessions.end_silent()
        now = datetime.now(UTC)
        doomed = self._ledger.expired_checkpoints(now)
        for checkpoint in doomed:
            # The row goes first: a crash in between leaves bytes without a name, which the next
            # save under that name replaces, and never a name without bytes.
            self._ledger.delete_checkpoint(checkpoint.address)
            self._store.delete(checkpoint.address)
        settings = self._settings
        num_results = self._ledger.sweep(now - timedelta(seconds=settings.sample_retention_s))
        kept_from = now - timedelta(seconds=settings.training_result_retention_s)
        num_results += self._ledger.drop_training_results(kept_from)
        ended = timedelta(seconds=self._recovery.history_of_ended_runs_s)
        files = self._ledger.drop_ended_history(now - ended)
        for file in files:
            self._snapshots.remove(file)
        return Swept(num_ended, len(doomed), num_results, len(files))
