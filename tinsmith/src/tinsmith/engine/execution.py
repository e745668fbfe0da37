"""Executing the ops of runs: what each one does to a run's state, and what it answers."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta

from tinsmith.checkpoints.store import CheckpointStore
from tinsmith.domain.addresses import CheckpointAddress
from tinsmith.domain.errors import InvalidInputError, NotFoundError
from tinsmith.domain.ops import (
    CreateRun,
    CreateRunFromState,
    ForwardBackward,
    LoadState,
    LoraConfig,
    Op,
    OptimStep,
    Release,
    Sample,
    SaveExternal,
    SaveForSampler,
    SaveState,
)
from tinsmith.domain.outcomes import (
    ForwardBackwardDone,
    Loaded,
    Outcome,
    Released,
    Result,
    RunCreated,
    Saved,
    StepDone,
    Succeeded,
)
from tinsmith.domain.records import Checkpoint, ServedModel, Snapshot
from tinsmith.engine.adapter import AdapterLayout, AdapterState, OptimizerState
from tinsmith.engine.adapter_config import adapter_config
from tinsmith.engine.base_model import BaseModel
from tinsmith.engine.micro_batch import MicroBatchPass
from tinsmith.engine.recovery import Recovery
from tinsmith.engine.replay import enter_window, logged_settings
from tinsmith.engine.residency import NoRoomYetError, Residency
from tinsmith.engine.trainer import Trainer, TrainingSettings
from tinsmith.engine.training_state import TrainingState
from tinsmith.ledger.entries import Execution, OpRecord
from tinsmith.ledger.ledger import Ledger


@dataclass(frozen=True, slots=True)
class Executed:
    """What is to be recorded of an op."""

    outcome: Outcome
    checkpoint: Checkpoint | None = None
    execution: Execution | None = None
    snapshot: Snapshot | None = None


class RunExecutor:
    """Changes the states of the runs of one base model, op by op."""

    def __init__(
        self,
        served: ServedModel,
        base_model: BaseModel,
        ledger: Ledger,
        store: CheckpointStore,
        residency: Residency,
        recovery: Recovery,
        settings: TrainingSettings,
        clock: Callable[[], float],
    ) -> None:
        """`clock` tells the engine's own time, without what others get in the middle of an op."""
        self._served = served
        self._base_model = base_model
        self._ledger = ledger
        self._store = store
        self._settings = settings
        self._residency = residency
        self._recovery = recovery
        self._clock = clock
        self._passes: dict[str, MicroBatchPass] = {}
        self.tokens_begun = 0
        """Of all micro-batches so far, that of the moment included."""
        self._spent_s: dict[str, float] = {}
        """By runs in the middle of an op."""

    def execute(self, record: OpRecord) -> Executed | None:
        """Execute an op, or its next micro-batch; None while micro-batches remain, while the run
        is being brought back after a crash, or while the op has to wait for room that runs in the
        middle of their ops take.

        Raises:
            UserError: the op can't be executed; the run is as it was before.
            ServiceError: our side failed.
        """
        run_id, started = record.scope, self._clock()
        executed = None
        try:
            if _needs_state(record.op) and not self._recovery.is_there(
                run_id, record.seq_id, self._begin
            ):
                return None
            started = self._clock()
            executed = self._execute(record)
        except NoRoomYetError:
            return None
        except Exception:
            self._spent_s.pop(run_id, None)
            raise
        spent_s = self._spent_s.pop(run_id, 0.0) + self._clock() - started
        if executed is None:
            self._spent_s[run_id] = spent_s
            return None
        match executed.outcome:
            case Succeeded(ForwardBackwardDone(metrics=metrics) | StepDone(metrics=metrics)):
                execution = Execution(spent_s, logged_settings(self._settings), metrics)
                return replace(executed, execution=execution)
            case _:
                return executed

    def settled(self, record: OpRecord, executed: Executed) -> None:
        """An op that was executed is on record: what it has made of the run may be kept. One that
        failed may have ended a gradient window or spoilt it."""
        if executed.snapshot is not None:
            self._recovery.loaded(executed.snapshot)
        elif isinstance(record.op, OptimStep) or (
            isinstance(record.op, ForwardBackward) and not record.op.forward_only
        ):
            engine_s = 0.0 if executed.execution is None else executed.execution.engine_s
            self._recovery.advanced(record.scope, record.seq_id, engine_s)
        elif isinstance(record.op, CreateRun) and isinstance(executed.outcome, Succeeded):
            self._recovery.created(record.scope)

    def _execute(self, record: OpRecord) -> Executed | None:
        run_id = record.scope
        match record.op:
            case CreateRun(lora=lora):
                self._add(run_id, lora, lambda: self._fresh(lora))
                return _done(RunCreated(run_id))
            case CreateRunFromState(source=source, with_optimizer=with_optimizer):
                checkpoint = self._checkpoint(source, record.owner)
                return self._load(record, checkpoint, with_optimizer)
            case LoadState(source=source, with_optimizer=with_optimizer):
                checkpoint = self._checkpoint(source, record.owner)
                self._check_shape(run_id, checkpoint)
                return self._load(record, checkpoint, with_optimizer)
            case ForwardBackward() as op:
                return self._forward_backward(record, op)
            case OptimStep() as op:
                return self._optim_step(record, op)
            case SaveState() | SaveForSampler() | SaveExternal() as op:
                return self._save(record, op)
            case Release():
                self._recovery.forget(run_id)
                self._residency.drop(run_id)
                return _done(Released(run_id))
            case Sample():
                raise AssertionError("samples belong to the sampler")

    def _add(self, run_id: str, lora: LoraConfig, make: Callable[[], TrainingState]) -> None:
        self._residency.add(run_id, AdapterLayout(self._base_model, lora).size, make)

    def _fresh(self, lora: LoraConfig) -> TrainingState:
        return TrainingState(AdapterState.create(self._base_model, lora))

    def _forward_backward(self, record: OpRecord, op: ForwardBackward) -> Executed | None:
        run_id = record.scope
        under_way = self._passes.pop(run_id, None)
        self._residency.let_go(run_id)
        if under_way is None:
            state = self._residency.take(run_id) if op.forward_only else self._in_window(record)
            under_way = Trainer(self._base_model, state, self._settings).start(op)
        done = under_way.advance(self._begin)
        if done is None:
            self._passes[run_id] = under_way
            self._residency.hold(run_id)
            return None
        return _done(done)

    def _begin(self, num_tokens: int) -> None:
        self.tokens_begun += num_tokens

    def _optim_step(self, record: OpRecord, op: OptimStep) -> Executed:
        state = self._in_window(record)
        return _done(Trainer(self._base_model, state, self._settings).optim_step(op))

    def _in_window(self, record: OpRecord) -> TrainingState:
        """The run's state, told of what intake refused: those ops never came by here."""
        state = self._residency.take(record.scope)
        enter_window(state, self._ledger, record.scope, record.seq_id)
        return state

    def _checkpoint(self, source: CheckpointAddress, owner: str) -> Checkpoint:
        checkpoint = self._ledger.visible_checkpoint(source, owner)
        if checkpoint is None:
            raise NotFoundError(f"there is no checkpoint {source}")
        if checkpoint.base_model != self._served.name:
            raise InvalidInputError(
                f"{source} is an adapter of {checkpoint.base_model}, not of {self._served.name}"
            )
        return checkpoint

    def _load(self, record: OpRecord, checkpoint: Checkpoint, with_optimizer: bool) -> Executed:
        """The run's state becomes the checkpoint's. Its replay must not lean on files that their
        owner may delete, so a snapshot is settled with it."""
        snapshots: list[Snapshot] = []

        def make() -> TrainingState:
            state = self._read(checkpoint, with_optimizer)
            snapshots.append(self._recovery.snapshot_of_load(record.scope, record.seq_id, state))
            return state

        self._add(record.scope, checkpoint.lora, make)
        loaded = _done(Loaded(record.scope, checkpoint.address))
        return replace(loaded, snapshot=snapshots[0])

    def _read(self, checkpoint: Checkpoint, with_optimizer: bool) -> TrainingState:
        arrays, _ = self._store.read_adapter(checkpoint.address)
        adapter = AdapterState.from_arrays(self._base_model, checkpoint.lora, arrays)
        if not with_optimizer:
            return TrainingState(adapter)
        moments = self._store.read_optimizer(checkpoint.address)
        return TrainingState(adapter, OptimizerState.from_arrays(adapter.layout, moments))

    def _check_shape(self, run_id: str, checkpoint: Checkpoint) -> None:
        run = self._ledger.run(run_id)
        assert run is not None, "its ops refer to it"
        before = _shape(run.lora)
        if _shape(checkpoint.lora) != before:
            raise InvalidInputError(
                f"{checkpoint.address} has LoRA settings {_shape(checkpoint.lora)}; the run has "
                f"{before}. Create a new training client from the checkpoint instead"
            )

    def _save(self, record: OpRecord, op: SaveState | SaveForSampler | SaveExternal) -> Executed:
        state = self._residency.take(record.scope)
        if self._residency.quotas is not None:
            self._residency.quotas.check_stored(record.owner)
        if self._ledger.checkpoint(op.address) is not None and not getattr(op, "overwrite", False):
            raise InvalidInputError(
                f"{op.address} exists already; choose another name, or save a training state "
                "with overwrite=True"
            )
        written = self._store.write(
            op.address,
            adapter=state.adapter.to_arrays(),
            adapter_config=adapter_config(
                self._served.name,
                state.layout.lora.rank,
                state.layout.peft_target_modules,
                state.layout.peft_target_parameters,
            ),
            optimizer=state.optimizer.to_arrays() if isinstance(op, SaveState) else None,
            details={
                "base_model": self._served.name,
                "base_quantized": self._base_model.quantization or None,
                **_shape(state.layout.lora),
            },
            recipients=op.age_recipients if isinstance(op, SaveExternal) else (),
            overwrite=True,  # bytes without a catalogue row are left from a crash
        )
        now = datetime.now(UTC)
        sampler_id = op.sampler_id if isinstance(op, SaveForSampler) else None
        checkpoint = Checkpoint(
            address=op.address,
            owner=record.owner,
            base_model=self._served.name,
            lora=state.layout.lora,
            created_at=now,
            size_bytes=written.size_bytes,
            digest=written.digest,
            expires_at=None if op.ttl_s is None else now + timedelta(seconds=op.ttl_s),
            is_listed=sampler_id is None,
            user_metadata={} if isinstance(op, SaveExternal) else op.user_metadata,
        )
        return Executed(Succeeded(Saved(op.address, sampler_id)), checkpoint)


def _needs_state(op: Op) -> bool:
    """Whether an op works on what the run is, and not only on what it is going to be."""
    return not isinstance(op, (CreateRun, CreateRunFromState, LoadState, Release))


def _done(result: Result) -> Executed:
    return Executed(Succeeded(result))


def _shape(lora: LoraConfig) -> dict[str, int | bool]:
    return {
        "rank": lora.rank,
        "train_attn": lora.train_attn,
        "train_mlp": lora.train_mlp,
        "train_unembed": lora.train_unembed,
    }
