"""Runs that come back: after a crash, after a damaged file, and from one engine to the next."""

from __future__ import annotations

import time
from collections.abc import Container

from tinsmith.checkpoints.snapshots import SnapshotStore
from tinsmith.config import Recovery as RecoverySettings
from tinsmith.domain.errors import StorageError, UserError
from tinsmith.domain.records import Snapshot
from tinsmith.engine.adapter import AdapterLayout
from tinsmith.engine.aside_files import DamagedFileError
from tinsmith.engine.base_model import BaseModel
from tinsmith.engine.micro_batch import OnBegin, TrainingSettings, no_news
from tinsmith.engine.replay import Replay, RunLostError
from tinsmith.engine.residency import Residency
from tinsmith.engine.snapshots import Snapshots
from tinsmith.engine.training_state import TrainingState
from tinsmith.ledger.ledger import Ledger
from tinsmith.telemetry import event

STORAGE_PAUSE_S = 0.2


class Recovery:
    """Keeps what is needed to make the runs of one engine again, and makes them again."""

    def __init__(
        self,
        base: BaseModel,
        ledger: Ledger,
        store: SnapshotStore,
        residency: Residency,
        training: TrainingSettings,
        settings: RecoverySettings,
        *,
        base_model: str,
        lease_epoch: int,
    ) -> None:
        self._base = base
        self._ledger = ledger
        self._store = store
        self._residency = residency
        self._training = training
        self._snapshots = Snapshots(
            store, ledger, settings, base_model=base_model, lease_epoch=lease_epoch
        )
        self._replays: dict[str, Replay] = {}
        self.num_restored = 0
        self.num_inexact = 0
        self.replay_s = 0.0

    @property
    def num_snapshots(self) -> int:
        """Written since the engine's start."""
        return self._snapshots.num_written

    @property
    def unsaved_s(self) -> float:
        """The most engine time of any run that a restart would have to repeat."""
        return self._snapshots.unsaved_s

    def is_there(self, run_id: str, seq_id: int, on_begin: OnBegin = no_news) -> bool:
        """Whether the run's state is on the device, as the op `seq_id` is to find it. If not, a
        micro-batch of its replay has been executed: ask again. `on_begin` as for
        MicroBatchPass.advance.

        Raises:
            RunLostError: it can't be had any more.
            NoRoomYetError, StorageError: see Residency.take.
        """
        if run_id not in self._replays:
            if run_id in self._residency:
                try:
                    self._residency.take(run_id)
                    return True
                except DamagedFileError as error:  # the log has it all
                    event("aside_file_unusable", run=run_id, why=error)
            if not self._start(run_id, seq_id):
                return False
        return self._go_on(run_id, on_begin)

    def created(self, run_id: str) -> None:
        """A new run has been drawn, and that is on record."""
        self._snapshots.begun(run_id, 0, 0.0, 0.0)

    def loaded(self, snapshot: Snapshot) -> None:
        """A run has become what a checkpoint holds, and that is on record."""
        engine_s = snapshot.notes["engine_s"]
        self._snapshots.begun(snapshot.run_id, snapshot.seq_id, engine_s, engine_s)

    def advanced(self, run_id: str, seq_id: int, engine_s: float) -> None:
        """An op has changed a run, and that is on record."""
        self._snapshots.advanced(run_id, seq_id, engine_s)

    def snapshot_of_load(self, run_id: str, seq_id: int, state: TrainingState) -> Snapshot:
        """Write what a load has made of a run; to be entered when the load is settled.

        Raises:
            StorageError: the disk refused.
        """
        logged = self._ledger.history(run_id, up_to=seq_id)
        engine_s = sum(op.execution.engine_s for op in logged if op.execution is not None)
        return self._snapshots.write(run_id, seq_id, engine_s, state)

    def forget(self, run_id: str) -> None:
        """The run is over, or is no longer what its log says."""
        self._replays.pop(run_id, None)
        self._snapshots.forget(run_id)

    def save_due(self, ahead: Container[str] = ()) -> None:
        """Begin to write the snapshot that is most wanted, if one is; not of runs that are `ahead`
        of their log."""
        for run_id in self._snapshots.due():
            if run_id in ahead or run_id in self._replays:
                continue
            if self._residency.is_resident(run_id):
                self._snapshots.take(run_id, self._residency.take(run_id))
                return

    def save_all(self, patience_s: float) -> None:
        """Before the engine ends: write what the next one would have to repeat, those with the most
        first, and begin none after `patience_s`."""
        until = time.monotonic() + patience_s
        self._snapshots.wait()
        for run_id in self._snapshots.unsaved():
            if time.monotonic() > until or run_id in self._replays:
                continue
            try:
                state = self._residency.take(run_id)
            except (StorageError, DamagedFileError) as error:
                event("not_saved", run=run_id, why=error)
                continue
            self._snapshots.take(run_id, state)
            self._snapshots.wait()

    def close(self) -> None:
        """Wait for the snapshot that is being written."""
        self._snapshots.close()

    def _start(self, run_id: str, seq_id: int) -> bool:
        try:
            run = self._ledger.run(run_id)
        except StorageError as error:
            self._delay(run_id, error)
            return False
        assert run is not None, "its ops refer to it"
        if run.is_corrupted:
            raise RunLostError(
                f"run {run_id} is corrupted: its state could not be made again. Create a training "
                "client from its last checkpoint and go on from there"
            )
        replay = Replay(
            self._base, self._ledger, self._store, run, before=seq_id, settings=self._training
        )
        size = AdapterLayout(self._base, run.lora).size
        try:
            self._residency.add(run_id, size, replay.begin)
        except RunLostError:
            self._ledger.mark_corrupted(run_id)
            raise
        except StorageError as error:
            self._delay(run_id, error)
            return False
        self._residency.hold(run_id)
        self._replays[run_id] = replay
        return True

    def _go_on(self, run_id: str, on_begin: OnBegin) -> bool:
        replay = self._replays[run_id]
        try:
            if not replay.advance(on_begin):
                return False
        except StorageError as error:
            self._delay(run_id, error)
            return False
        except (RunLostError, UserError) as error:
            self._give_up(run_id)
            self._ledger.mark_corrupted(run_id)
            if isinstance(error, RunLostError):
                raise
            raise RunLostError(
                f"run {run_id} can't be made again: what went well the first time is refused now "
                f"({error}). Create a training client from its last checkpoint and go on from there"
            ) from error
        except Exception:  # such as a device without memory, which the next op may find
            self._give_up(run_id)
            raise
        del self._replays[run_id]
        self._residency.let_go(run_id)
        self._note(run_id, replay)
        return True

    def _give_up(self, run_id: str) -> None:
        del self._replays[run_id]
        self._residency.drop(run_id)

    def _note(self, run_id: str, replay: Replay) -> None:
        self._snapshots.begun(run_id, replay.at, replay.engine_s, replay.saved_engine_s)
        self.num_restored += 1
        self.replay_s += replay.spent_s
        event(
            "run_restored",
            run=run_id,
            seq=replay.at,
            ops=replay.num_repeated,
            differing=len(replay.differing),
            ms=round(1000 * replay.spent_s),
        )
        if replay.differing:
            self.num_inexact += 1
            self._ledger.mark_inexact(
                run_id,
                f"{len(replay.differing)} of {replay.num_repeated} requests, the first of them "
                f"number {replay.differing[0]}, gave other bits when they were repeated after a "
                "restart: another machine, device or version",
            )

    def _delay(self, run_id: str, error: StorageError) -> None:
        """The disk will be asked again with the run's next turn."""
        event("recovery_waits", run=run_id, why=error)
        time.sleep(STORAGE_PAUSE_S)
