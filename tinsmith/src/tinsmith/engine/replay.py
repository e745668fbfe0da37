"""A run's state, made again: a snapshot, and then what the log says was done.

The log's outcomes stand; a replay repeats the work for its effect and compares. What decides about
rounding is repeated as it was logged, so that on the same kind of machine every bit is the same.
"""

from __future__ import annotations

import contextlib
import hashlib
import time
from collections.abc import Iterator, Mapping
from dataclasses import asdict, replace
from typing import Any

import torch

from tinsmith.checkpoints.snapshots import DamagedSnapshotError, SnapshotStore
from tinsmith.domain.errors import ServiceError
from tinsmith.domain.ops import CreateRun, ForwardBackward, OptimStep
from tinsmith.domain.outcomes import Result, Succeeded
from tinsmith.domain.records import Run, Snapshot
from tinsmith.engine.adapter import AdapterLayout, AdapterState
from tinsmith.engine.base_model import BaseModel
from tinsmith.engine.micro_batch import MicroBatchPass, OnBegin, TrainingSettings, no_news
from tinsmith.engine.trainer import Trainer
from tinsmith.engine.training_state import StateNotes, TrainingState
from tinsmith.ledger.codec import encode
from tinsmith.ledger.entries import LoggedOp
from tinsmith.ledger.ledger import Ledger
from tinsmith.telemetry import event

REPEATED = ("forward_backward", "optim_step", "load_state")
"""Kinds of ops that change a run's state. Where they failed they changed nothing, but for ending
or spoiling a gradient window, and the log tells of that by itself."""


class RunLostError(ServiceError):
    """A run's state can't be had any more."""


def logged_settings(settings: TrainingSettings) -> dict[str, Any]:
    """What decides about the rounding of an op that is executed now, as JSON."""
    return {
        **asdict(replace(settings, activation_bytes=None)),
        "threads": torch.get_num_threads(),
    }


def enter_window(state: TrainingState, ledger: Ledger, run_id: str, seq_id: int) -> None:
    """Tell a state of the ops of a gradient window that were refused before they came by."""
    window = ledger.gradient_window(run_id, seq_id)
    state.enter_window(window.start_seq_id)
    for failed in window.failed:
        state.fail_window(f"seq_id {failed.seq_id}: {failed.message}")


class Replay:
    """One run's, a micro-batch at a time."""

    def __init__(
        self,
        base: BaseModel,
        ledger: Ledger,
        snapshots: SnapshotStore,
        run: Run,
        *,
        before: int,
        settings: TrainingSettings,
        from_oldest: bool = False,
    ) -> None:
        """
        Args:
            before: the seq_id whose op is to find the state.
            settings: for what the log does not say.
            from_oldest: begin as far back as the log reaches, not with the newest snapshot.
        """
        self._base = base
        self._ledger = ledger
        self._snapshots = snapshots
        self._run = run
        self._before = before
        self._settings = settings
        self._from_oldest = from_oldest
        self._state: TrainingState | None = None
        self._remaining: list[LoggedOp] = []
        self._pass: MicroBatchPass | None = None
        self.at = -1
        """The seq_id of the last op that the state holds."""
        self.num_repeated = 0
        self.differing: list[int] = []
        """seq_ids of ops that gave other bits than the first time."""
        self.saved_engine_s = 0.0
        """The engine's time that the run had had where the replay begins ..."""
        self.engine_s = 0.0
        """... and has had by now, as it was spent first."""
        self.spent_s = 0.0
        """What the replay itself has taken."""

    @property
    def state(self) -> TrainingState:
        """As far as it is made."""
        assert self._state is not None, "begin() comes first"
        return self._state

    @property
    def num_remaining(self) -> int:
        """Ops that are not repeated yet."""
        return len(self._remaining)

    @property
    def next_seq_id(self) -> int:
        """That of the first of them."""
        return self._remaining[0].seq_id

    def begin(self) -> TrainingState:
        """The state to go on from: of a snapshot, or of a new run.

        Raises:
            RunLostError: there is nothing to begin with.
            StorageError: a snapshot could not be read this time.
        """
        self._state = self._from_snapshot() or self._from_seed()
        behind = self._ledger.history(self._run.run_id, after=self.at, up_to=self._before - 1)
        self._remaining = [op for op in behind if op.kind in REPEATED and op.is_failed is False]
        return self._state

    def advance(self, on_begin: OnBegin = no_news) -> bool:
        """Repeat the next micro-batch or op; whether that was the last. `on_begin` as for
        MicroBatchPass.advance.

        Raises:
            RunLostError: what is needed is kept no longer.
            StorageError: it could not be read this time.
        """
        if self._remaining:
            logged, started = self._remaining[0], time.monotonic()
            if self._repeat(logged, on_begin):
                del self._remaining[0]
                self.at = logged.seq_id
                self.num_repeated += 1
                self.engine_s += logged.execution.engine_s if logged.execution else 0.0
            self.spent_s += time.monotonic() - started
        return not self._remaining

    def restored(self, snapshot: Snapshot) -> TrainingState:
        """What a snapshot holds, on the device. Raises DamagedSnapshotError, StorageError."""
        vectors = self._snapshots.read(snapshot.file, snapshot.digest)
        on_device = {
            # Copied into torch's own memory, which is aligned as it was the first time.
            name: torch.empty(len(vector), device=self._base.device).copy_(torch.tensor(vector))
            for name, vector in vectors.items()
        }
        notes = snapshot.notes
        kept = StateNotes(snapshot.num_steps, notes["window_failure"], notes["window_start"])
        return TrainingState.restored(AdapterLayout(self._base, self._run.lora), on_device, kept)

    def _from_snapshot(self) -> TrainingState | None:
        known = self._ledger.snapshots(self._run.run_id)
        usable = [one for one in known if one.seq_id < self._before]
        if self._from_oldest:
            usable = [] if self._is_seeded else usable[::-1]
        for snapshot in usable:
            try:
                state = self.restored(snapshot)
            except DamagedSnapshotError as error:
                event("snapshot_unusable", run=self._run.run_id, seq=snapshot.seq_id, why=error)
                continue
            self.at = snapshot.seq_id
            self.saved_engine_s = self.engine_s = snapshot.notes["engine_s"]
            return state
        return None

    def _from_seed(self) -> TrainingState:
        if not self._is_seeded:
            raise self._lost("no snapshot of it can be read, and its log begins later")
        self.at = 0
        return TrainingState(AdapterState.create(self._base, self._run.lora))

    @property
    def _is_seeded(self) -> bool:
        """Whether the log still tells how the run was drawn."""
        return isinstance(self._ledger.logged_op(self._run.run_id, 0), CreateRun)

    def _repeat(self, logged: LoggedOp, on_begin: OnBegin) -> bool:
        """Whether the op is done with."""
        run_id, seq_id = self._run.run_id, logged.seq_id
        if logged.kind == "load_state":
            self._jump_to(seq_id)
            return True
        settings, threads = self._as_logged(logged.execution.settings if logged.execution else {})
        with _threads(threads):
            if self._pass is None:
                op = self._ledger.logged_op(run_id, seq_id)
                if op is None:
                    raise self._lost(f"request {seq_id} is kept no longer")
                enter_window(self.state, self._ledger, run_id, seq_id)
                trainer = Trainer(self._base, self.state, settings)
                if isinstance(op, OptimStep):
                    self._compare(logged, trainer.optim_step(op))
                    return True
                assert isinstance(op, ForwardBackward)
                self._pass = trainer.start(op)
            done = self._pass.advance(on_begin)
        if done is None:
            return False
        self._pass = None
        self._compare(logged, done)
        return True

    def _jump_to(self, seq_id: int) -> None:
        """Take over what a load has made of the run: its snapshot was settled with it."""
        for snapshot in self._ledger.snapshots(self._run.run_id):
            if snapshot.seq_id == seq_id:
                self.state.become(self.restored(snapshot))
                return
        raise self._lost(f"the snapshot of its load, request {seq_id}, is gone")

    def _as_logged(self, logged: Mapping[str, Any]) -> tuple[TrainingSettings, int]:
        known = asdict(self._settings)
        changes = {name: value for name, value in logged.items() if name in known}
        changes["activation_bytes"] = self._settings.activation_bytes
        settings = replace(self._settings, **changes)
        return settings, int(logged.get("threads", torch.get_num_threads()))

    def _compare(self, logged: LoggedOp, result: Result) -> None:
        if logged.execution is None:  # an older version's, which left nothing to compare with
            return
        if hashlib.sha256(encode(Succeeded(result))).hexdigest() != logged.execution.digest:
            self.differing.append(logged.seq_id)

    def _lost(self, why: str) -> RunLostError:
        return RunLostError(
            f"the state of run {self._run.run_id} can't be had any more: {why}. Create a training "
            "client from the run's last checkpoint and go on from there"
        )


@contextlib.contextmanager
def _threads(count: int) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)
