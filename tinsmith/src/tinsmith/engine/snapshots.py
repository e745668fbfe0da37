"""Snapshots of runs: when one is due, writing it behind the engine's back, and which ones stay."""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from tinsmith.checkpoints.snapshots import SnapshotStore
from tinsmith.config import Recovery
from tinsmith.domain.errors import StorageError
from tinsmith.domain.records import Snapshot
from tinsmith.engine.aside_files import file_name
from tinsmith.engine.pruning import Kept, prune
from tinsmith.engine.training_state import TrainingState
from tinsmith.ledger.entries import LeaseLostError
from tinsmith.ledger.ledger import Ledger
from tinsmith.telemetry import event, failure

SHARE_OF_TIME = 50
"""Writing takes at most one part in so many of the time that a run works, as far as
`max_replay_s` allows."""
SOONEST_S = 1.0
PRUNE_EVERY = 8
"""Snapshots of a run between two looks at what its history takes."""


@dataclass(frozen=True, slots=True)
class _Copy:
    """A run's state as it was after an op, in host memory of its own."""

    run_id: str
    seq_id: int
    num_steps: int
    vectors: Mapping[str, NDArray[np.float32]]
    notes: Mapping[str, Any]
    engine_s: float

    @classmethod
    def of(
        cls, run_id: str, seq_id: int, engine_s: float, state: TrainingState, is_load: bool = False
    ) -> _Copy:
        vectors = {
            name: vector.detach().to("cpu", torch.float32, copy=True).numpy()
            for name, vector in state.vectors.items()
        }
        notes = {
            "window_failure": state.window_failure,
            "window_start": state.window_start,
            "engine_s": engine_s,
            "is_load": is_load,
        }
        return cls(run_id, seq_id, state.optimizer.num_steps, vectors, notes, engine_s)


@dataclass(slots=True)
class _Progress:
    """How far a run has come in this engine."""

    seq_id: int
    engine_s: float
    """The engine's time that the run has had since its creation."""
    saved_engine_s: float
    """As much of it as the newest snapshot holds."""
    num_unpruned: int = 0


class Snapshots:
    """The snapshots that one engine takes of its runs. One is written at a time, by a thread of
    its own; what a run has done since is repeated from the log."""

    def __init__(
        self,
        store: SnapshotStore,
        ledger: Ledger,
        settings: Recovery,
        *,
        base_model: str,
        lease_epoch: int,
    ) -> None:
        self._store = store
        self._ledger = ledger
        self._settings = settings
        self._base_model = base_model
        self._lease_epoch = lease_epoch
        self._folder = file_name(base_model)
        self._progress: dict[str, _Progress] = {}
        self._write_s: dict[str, float] = {}
        """How long the run's last snapshot took."""
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="snapshots")
        self._under_way: Future[None] | None = None
        self.num_written = 0
        num_left = store.sweep(self._folder, ledger.snapshot_files(base_model))
        if num_left:
            event("snapshot_leftovers_removed", files=num_left)

    @property
    def unsaved_s(self) -> float:
        """The most engine time of any run that a restart would have to repeat."""
        return max((_unsaved(one) for one in self._progress.values()), default=0.0)

    def begun(self, run_id: str, seq_id: int, engine_s: float, saved_engine_s: float) -> None:
        """A run is there, after the op `seq_id`, having had so much of the engine's time, of which
        its newest snapshot holds `saved_engine_s`."""
        self._progress[run_id] = _Progress(seq_id, engine_s, saved_engine_s)

    def advanced(self, run_id: str, seq_id: int, engine_s: float) -> None:
        """An op of the run has been executed and settled."""
        progress = self._progress.get(run_id)
        if progress is not None:
            progress.seq_id = seq_id
            progress.engine_s += engine_s

    def forget(self, run_id: str) -> None:
        """The run is gone, or is not what its log says."""
        self._progress.pop(run_id, None)
        self._write_s.pop(run_id, None)

    def due(self) -> list[str]:
        """Runs whose time has come, those with the most to repeat first; none while another is
        being written."""
        if self._under_way is not None and not self._under_way.done():
            return []
        due = [run_id for run_id, one in self._progress.items() if self._is_due(run_id, one)]
        return sorted(due, key=lambda run_id: -_unsaved(self._progress[run_id]))

    def unsaved(self) -> list[str]:
        """All runs of which something would have to be repeated, the most first."""
        some = [run_id for run_id, one in self._progress.items() if _unsaved(one) > 0]
        return sorted(some, key=lambda run_id: -_unsaved(self._progress[run_id]))

    def take(self, run_id: str, state: TrainingState) -> None:
        """Copy the state as it is after the run's last settled op, and have it written."""
        progress = self._progress[run_id]
        copy = _Copy.of(run_id, progress.seq_id, progress.engine_s, state)
        self._under_way = self._thread.submit(self._save, copy)

    def write(self, run_id: str, seq_id: int, engine_s: float, state: TrainingState) -> Snapshot:
        """Write a snapshot of what a load has made, to be entered when the load is settled.

        Raises:
            StorageError: the disk refused.
        """
        return self._written(_Copy.of(run_id, seq_id, engine_s, state, is_load=True))

    def wait(self) -> None:
        """Until nothing is being written."""
        if self._under_way is not None:
            self._under_way.result()

    def close(self) -> None:
        self._thread.shutdown()

    def _is_due(self, run_id: str, progress: _Progress) -> bool:
        worth_it_s = max(SOONEST_S, SHARE_OF_TIME * self._write_s.get(run_id, 0.0))
        # Half of it: the run goes on while its snapshot is being written.
        return _unsaved(progress) >= min(self._settings.max_replay_s / 2, worth_it_s)

    def _save(self, copy: _Copy) -> None:
        run_id, started = copy.run_id, time.monotonic()
        try:
            snapshot = self._written(copy)
            try:
                self._ledger.put_snapshot(
                    snapshot, base_model=self._base_model, lease_epoch=self._lease_epoch
                )
            except BaseException:
                self._store.remove(snapshot.file)
                raise
            self._note_saved(run_id, copy.engine_s)
        except LeaseLostError:
            return  # the loop finds out by itself, and ends
        except StorageError as error:  # nothing is lost: the log holds it all
            event("cannot_take_snapshot", level=logging.WARNING, run=run_id, why=error)
        except Exception as error:
            failure("snapshot_failed", error, run=run_id)
        finally:
            self._write_s[run_id] = time.monotonic() - started

    def _written(self, copy: _Copy) -> Snapshot:
        title = f"{file_name(copy.run_id)}-{copy.seq_id}"
        written = self._store.write(self._folder, title, copy.vectors)
        self.num_written += 1
        return Snapshot(
            copy.run_id,
            copy.seq_id,
            copy.num_steps,
            datetime.now(UTC),
            written.size_bytes,
            written.file,
            written.digest,
            copy.notes,
        )

    def _note_saved(self, run_id: str, engine_s: float) -> None:
        progress = self._progress.get(run_id)
        if progress is None:
            return
        progress.saved_engine_s = max(progress.saved_engine_s, engine_s)
        progress.num_unpruned += 1
        if progress.num_unpruned >= PRUNE_EVERY:
            progress.num_unpruned = 0
            self.prune(run_id)

    def prune(self, run_id: str) -> None:
        """Drop what the settings do not want kept of the run's history. Raises StorageError."""
        snapshots = self._ledger.snapshots(run_id)
        kept = [
            Kept(one.seq_id, one.size_bytes, one.notes["engine_s"], one.notes["is_load"])
            for one in reversed(snapshots)
        ]
        plan = prune(kept, self._ledger.payload_sizes(run_id), self._settings)
        if plan.drop or plan.payloads_up_to >= 0:
            self._ledger.drop_snapshots(run_id, plan.drop, payloads_up_to=plan.payloads_up_to)
        for one in snapshots:
            if one.seq_id in plan.drop:
                self._store.remove(one.file)


def _unsaved(progress: _Progress) -> float:
    return progress.engine_s - progress.saved_engine_s
