"""The engine's loop: take in what the log holds, take a turn, record what came of it.

Only this thread touches the device. A turn is one micro-batch, one op without one, or one step of
sampling; scheduler.turns says whose. Between the layers of a micro-batch samples get their turns as
well, at most as much time as training has had: whose project has not had more than its share waits
no longer than a layer for a token.
"""

from __future__ import annotations

import logging
import time
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass

import torch

from tinsmith.checkpoints.snapshots import SnapshotStore
from tinsmith.checkpoints.store import CheckpointStore
from tinsmith.config import Engine as EngineSettings
from tinsmith.config import Recovery as RecoverySettings
from tinsmith.domain.errors import ServiceError, StorageError, UserError
from tinsmith.domain.ops import Sample
from tinsmith.domain.outcomes import Failed, FailureCategory, Succeeded
from tinsmith.domain.records import ServedModel
from tinsmith.engine.base_model import BaseModel
from tinsmith.engine.execution import Executed, RunExecutor
from tinsmith.engine.frozen_adapters import FrozenAdapters
from tinsmith.engine.meter import Meter
from tinsmith.engine.planning import planned_sampler, planned_training
from tinsmith.engine.recovery import Recovery
from tinsmith.engine.request_traces import RequestTraces
from tinsmith.engine.residency import Residency
from tinsmith.engine.sample_request import DecodeText
from tinsmith.engine.weights import ProjectWeights
from tinsmith.ledger.bell import Bell
from tinsmith.ledger.entries import OpRecord, Settlement
from tinsmith.ledger.ledger import Ledger
from tinsmith.scheduler.turns import (
    LEAST_TURN_TOKENS,
    Accounts,
    Backlog,
    Idle,
    RunTurn,
    SampleTurn,
    Turn,
    next_turn,
)
from tinsmith.telemetry import event, failure
from tinsmith.tracing import Traces, now

LOOK_ANYWAY_S = 5.0
"""The ledger is read at least so often, in case a ring of the bell was lost."""
TAKE_IN_BYTES = 64 * 2**20
STORAGE_PAUSE_S = 2.0
SAVING_PATIENCE_S = 8.0
"""Below the front's own patience with an engine that is to stop."""
HOLD_S = 0.005
"""Outcomes of short ops are held for so long, if other runs have ops waiting: one commit then
serves several."""
LEAST_TRAINING_S = 0.01
"""Training is left alone for so long between two looks at what else there is."""


@dataclass(frozen=True, slots=True)
class Threads:
    """CPU threads of a product. Fixed while an engine runs: sums may depend on them."""

    training: int
    sampling: int


class EngineLoop:
    """One base model, its runs and its samplers."""

    def __init__(
        self,
        *,
        served: ServedModel,
        base_model: BaseModel,
        ledger: Ledger,
        store: CheckpointStore,
        residency: Residency,
        threads: Threads,
        bell: Bell,
        settings: EngineSettings,
        snapshots: SnapshotStore,
        recovery: RecoverySettings,
        lease_epoch: int,
        decode_text: DecodeText | None,
        traces: Traces | None = None,
    ) -> None:
        """`decode_text` is for stop strings; None where the model has no tokenizer."""
        self._served = served
        self._ledger = ledger
        self._bell = bell
        self._base_model = base_model
        self._threads = threads
        self._lease_epoch = lease_epoch
        self._weights = ProjectWeights(ledger)
        weights = self._weights.by_project
        self._sampler = planned_sampler(base_model, settings, decode_text, weights)
        self._frozen = FrozenAdapters(
            base_model, ledger, store, settings.max_cached_adapters, residency.quotas
        )
        training = planned_training(base_model, settings)
        self._recovery = Recovery(
            base_model,
            ledger,
            snapshots,
            residency,
            training,
            recovery,
            base_model=served.name,
            lease_epoch=lease_epoch,
        )
        self._executor = RunExecutor(
            served, base_model, ledger, store, residency, self._recovery, training, self._own_time
        )
        self._queues: dict[str, deque[OpRecord]] = {}
        self._held: dict[str, tuple[OpRecord, Executed]] = {}
        """By run: executed, and not on record yet."""
        self._held_since = 0.0
        self._meter = Meter(base_model, self._sampler, self._queues, self._recovery, bell)
        self._traces = None if traces is None else RequestTraces(traces)
        self._last_row = 0
        self._accounts = Accounts()
        self._charged_tokens = 0
        self._stopping = False
        self._has_news = True
        self._resumed_at = 0.0
        self._paused_s = 0.0
        """What others have had in the middle of ops."""
        self._pause_error: Exception | None = None

    def run(self) -> None:
        """Work until the front says stop, then leave the runs as the next engine wants them.

        Raises:
            EOFError: the front is gone.
            LeaseLostError: another engine has taken over.
        """
        try:
            self._work()
            self._put_on_record()
            self._recovery.save_all(SAVING_PATIENCE_S)
        finally:
            self._recovery.close()

    def _work(self) -> None:
        while not self._stopping:
            if self._has_news:
                self._has_news = False
                self._take_in()
            turn, self._accounts = next_turn(
                self._backlog(), self._accounts, self._weights.by_project
            )
            if not self._may_hold_before(turn):
                self._put_on_record()
            self._meter.projects.turn(turn)
            match turn:
                case RunTurn():
                    self._weights.read_now_and_then()
                    self._train(turn)
                case SampleTurn():
                    self._sample(turn)
                case Idle():
                    pass
            self._recovery.save_due(self._held)
            is_idle = isinstance(turn, Idle)
            self._meter.tell(is_idle=is_idle)
            self._hear(LOOK_ANYWAY_S if is_idle else 0.0)

    def _backlog(self) -> Backlog:
        runs: dict[str, list[str]] = {}
        for run_id, queue in self._queues.items():
            runs.setdefault(queue[0].owner, []).append(run_id)
        return Backlog(runs, self._sampler.projects)

    def _hear(self, patience_s: float) -> None:
        """Wait for the bell no longer than `patience_s`, and note what it said."""
        message = self._bell.listen(patience_s)
        self._has_news = self._has_news or message is not None or patience_s > 0
        while message is not None:
            self._stopping = self._stopping or message["kind"] == "stop"
            if message["kind"] == "cancel":
                self._sampler.cancel(message["request_ids"])
                self._meter.projects.forget(message["request_ids"])
                if self._traces is not None:
                    self._traces.forget(message["request_ids"])
            message = self._bell.listen(0.0)

    def _take_in(self) -> None:
        """Read the log on from where we are, some megabytes at a time."""
        self._weights.read_now_and_then()
        while records := self._ledger.pending(
            self._served.name, after=self._last_row, max_bytes=TAKE_IN_BYTES
        ):
            for record in records:
                self._last_row = record.row
                self._meter.projects.arrived(record.request_id, record.owner)
                if self._traces is not None:
                    self._traces.arrived(record.request_id, record.owner)
                if isinstance(record.op, Sample):
                    self._take_in_sample(record, record.op)
                else:
                    self._queues.setdefault(record.scope, deque()).append(record)

    def _take_in_sample(self, record: OpRecord, sample: Sample) -> None:
        try:
            adapter = self._frozen.of_sampler(record.scope)
            self._sampler.add(record.request_id, sample, adapter, record.owner)
        except Exception as error:
            self._settle({record.request_id: Executed(_failed(error, record.request_id))})

    def _train(self, turn: RunTurn) -> None:
        queue = self._queues[turn.run_id]
        record = queue[0]
        self._meter.projects.began([record.request_id])
        if self._traces is not None:
            self._traces.began([record.request_id])
        torch.set_num_threads(self._threads.training)
        self._resumed_at = time.monotonic()
        self._base_model.on_pause = lambda: self._between_layers(turn)
        charged_before = self._charged_tokens
        try:
            executed = self._executor.execute(record)
        except Exception as error:
            executed = Executed(_failed(error, record.request_id))
        finally:
            self._base_model.on_pause = None
            self._charge(turn)
            if (had := self._charged_tokens - charged_before) < LEAST_TURN_TOKENS:
                self._accounts = self._accounts.charge_run(turn, LEAST_TURN_TOKENS - had)
        if self._pause_error is not None:
            raise self._pause_error
        if executed is None:
            return
        if isinstance(executed.outcome, Succeeded):
            self._meter.count(record.op)
        queue.popleft()
        if not queue:
            del self._queues[turn.run_id]
        if not self._held:
            self._held_since = time.monotonic()
        self._held[turn.run_id] = (record, executed)

    def _may_hold_before(self, turn: Turn) -> bool:
        """Whether what is held can wait for another run's op. A run's own next op looks into the
        log for those before it."""
        is_another = isinstance(turn, RunTurn) and turn.run_id not in self._held
        return is_another and time.monotonic() - self._held_since < HOLD_S

    def _put_on_record(self) -> None:
        """Settle what is held."""
        if not self._held:
            return
        held, self._held = self._held, {}
        is_settled = self._settle(
            {record.request_id: executed for record, executed in held.values()}
        )
        for run_id, (record, executed) in held.items():
            if is_settled:
                self._executor.settled(record, executed)
            else:
                self._recovery.forget(run_id)

    def _charge(self, turn: RunTurn) -> None:
        """With the tokens of micro-batches that have begun since the last call."""
        begun = self._executor.tokens_begun
        if begun > self._charged_tokens:
            num_tokens, self._charged_tokens = begun - self._charged_tokens, begun
            self._accounts = self._accounts.charge_run(turn, num_tokens)
            self._meter.projects.worked({turn.project: num_tokens})

    def _between_layers(self, turn: RunTurn) -> None:
        """Within a micro-batch of training: let sampling have as much time as training has had, as
        far as its projects' shares go."""
        paused_at, threads = time.monotonic(), torch.get_num_threads()
        had_s = paused_at - self._resumed_at
        if had_s < LEAST_TRAINING_S or self._pause_error is not None:
            return
        on_pause, self._base_model.on_pause = self._base_model.on_pause, None
        self._charge(turn)
        try:
            self._put_on_record()
            self._hear(0.0)
            if self._has_news:
                self._has_news = False
                self._take_in()
            until = time.monotonic() + had_s
            while time.monotonic() < until and (
                sample_turn := self._accounts.turn_between_layers(
                    turn.project, self._sampler.projects, self._weights.by_project
                )
            ):
                self._sample(sample_turn)
            self._meter.tell(is_idle=False)
        except Exception as error:  # not the op's fault that is under way: raised after it
            self._pause_error = error
        finally:
            torch.set_num_threads(threads)
            self._base_model.on_pause = on_pause
            self._resumed_at = time.monotonic()
            self._paused_s += self._resumed_at - paused_at

    def _own_time(self) -> float:
        """Seconds, without those that others have had in the middle of ops."""
        return time.monotonic() - self._paused_s

    def _sample(self, turn: SampleTurn) -> None:
        torch.set_num_threads(self._threads.sampling)
        try:
            outcomes = dict(self._sampler.step())
        except Exception as error:
            failed = _failed(error, "sampling")
            outcomes = dict.fromkeys(self._sampler.reset(), failed)
        self._accounts = self._accounts.charge_sampling(
            turn, self._sampler.step_tokens, self._weights.by_project
        )
        self._meter.projects.began(self._sampler.step_began)
        if self._traces is not None:
            self._traces.began(self._sampler.step_began)
        self._meter.projects.worked(self._sampler.step_tokens)
        told = self._sampler.take_told()
        if told:
            self._bell.ring("tokens", told=told)
        if outcomes:
            self._settle({request: Executed(outcome) for request, outcome in outcomes.items()})

    def _settle(self, executed: Mapping[str, Executed]) -> bool:
        """Record outcomes and wake who waits. A disk that refuses is asked again until it takes
        them or we are told to stop: what was executed must not be lost for want of room. Whether
        they are on record."""
        self._meter.projects.forget(executed)
        begun_ns = now()
        if self._traces is not None:
            self._traces.executed({request: one.outcome for request, one in executed.items()})
        settlements = [
            Settlement(
                request_id,
                one.outcome,
                self._lease_epoch,
                one.checkpoint,
                one.execution,
                one.snapshot,
            )
            for request_id, one in executed.items()
        ]
        while True:
            try:
                self._ledger.settle_many(settlements)
            except StorageError as error:
                event("cannot_record", level=logging.WARNING, why=error, retry_s=STORAGE_PAUSE_S)
                self._hear(STORAGE_PAUSE_S)
                if self._stopping:
                    return False
            else:
                self._bell.ring("settled", request_ids=list(executed))
                if self._traces is not None:
                    self._traces.settled(executed, begun_ns)
                return True


def _failed(error: Exception, what: str) -> Failed:
    """The engine's edge: whatever went wrong with one op becomes its outcome, and is logged if it
    is ours, so that one op cannot end the engine and the runs that it holds."""
    if isinstance(error, UserError):
        return Failed(FailureCategory.USER, str(error))
    if isinstance(error, ServiceError):
        return Failed(FailureCategory.SERVER, str(error))
    failure("op_failed", error, what=what)
    return Failed(
        FailureCategory.SERVER, f"the engine failed on {what}: {type(error).__name__}: {error}"
    )
