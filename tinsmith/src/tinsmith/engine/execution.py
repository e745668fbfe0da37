"""Executing the ops of runs: what each one does to a run's state, and what it answers."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from tinsmith.checkpoints.store import CheckpointStore
from tinsmith.domain.addresses import CheckpointAddress
from tinsmith.domain.errors import InvalidInputError, NotFoundError, ServiceError
from tinsmith.domain.ops import (
    CreateRun,
    CreateRunFromState,
    ForwardBackward,
    LoadState,
    LoraConfig,
    OptimStep,
    Release,
    Sample,
    SaveExternal,
    SaveForSampler,
    SaveState,
)
from tinsmith.domain.outcomes import Loaded, Outcome, Released, Result, RunCreated, Saved, Succeeded
from tinsmith.domain.records import Checkpoint, ServedModel
from tinsmith.engine.adapter import AdapterLayout, AdapterState, OptimizerState
from tinsmith.engine.adapter_config import adapter_config
from tinsmith.engine.aside_files import DamagedFileError
from tinsmith.engine.base_model import BaseModel
from tinsmith.engine.micro_batch import MicroBatchPass
from tinsmith.engine.residency import NoRoomYetError, Residency
from tinsmith.engine.trainer import Trainer, TrainingSettings
from tinsmith.engine.training_state import TrainingState
from tinsmith.ledger.entries import OpRecord
from tinsmith.ledger.ledger import Ledger


class RunLostError(ServiceError):
    """The run's state went with an engine that stopped, or with a damaged file."""


@dataclass(frozen=True, slots=True)
class Executed:
    """What is to be recorded of an op."""

    outcome: Outcome
    checkpoint: Checkpoint | None = None


class RunExecutor:
    """Changes the states of the runs of one base model, op by op."""

    def __init__(
        self,
        served: ServedModel,
        base_model: BaseModel,
        ledger: Ledger,
        store: CheckpointStore,
        residency: Residency,
        settings: TrainingSettings,
    ) -> None:
        self._served = served
        self._base_model = base_model
        self._ledger = ledger
        self._store = store
        self._settings = settings
        self._residency = residency
        self._passes: dict[str, MicroBatchPass] = {}
        self.tokens_begun = 0
        """Of all micro-batches so far, that of the moment included."""

    def execute(self, record: OpRecord) -> Executed | None:
        """Execute an op, or its next micro-batch; None while micro-batches remain, or while the
        op has to wait for room that runs in the middle of their ops take.

        Raises:
            UserError: the op can't be executed; the run is as it was before.
            ServiceError: our side failed.
        """
        try:
            return self._execute(record)
        except NoRoomYetError:
            return None

    def _execute(self, record: OpRecord) -> Executed | None:
        run_id = record.scope
        match record.op:
            case CreateRun(lora=lora):
                self._add(run_id, lora, lambda: self._fresh(lora))
                return _done(RunCreated(run_id))
            case CreateRunFromState(source=source, with_optimizer=with_optimizer):
                checkpoint = self._checkpoint(source, record.owner)
                self._add(run_id, checkpoint.lora, lambda: self._load(checkpoint, with_optimizer))
                return _done(Loaded(run_id, source))
            case LoadState(source=source, with_optimizer=with_optimizer):
                self._load_into(run_id, source, record.owner, with_optimizer)
                return _done(Loaded(run_id, source))
            case ForwardBackward() as op:
                return self._forward_backward(record, op)
            case OptimStep() as op:
                return self._optim_step(record, op)
            case SaveState() | SaveForSampler() | SaveExternal() as op:
                return self._save(record, op)
            case Release():
                self._residency.drop(run_id)
                return _done(Released(run_id))
            case Sample():
                raise AssertionError("samples belong to the sampler")

    def _add(self, run_id: str, lora: LoraConfig, make: Callable[[], TrainingState]) -> None:
        self._residency.add(run_id, AdapterLayout(self._base_model, lora).size, make)

    def _fresh(self, lora: LoraConfig) -> TrainingState:
        return TrainingState(AdapterState.create(self._base_model, lora))

    def _state(self, run_id: str) -> TrainingState:
        self._expect(run_id)
        try:
            return self._residency.take(run_id)
        except DamagedFileError as error:
            raise self._lost(run_id, f"put aside for want of memory, and {error}") from error

    def _expect(self, run_id: str) -> None:
        if run_id not in self._residency:
            raise self._lost(run_id, "lost when its engine stopped")

    def _lost(self, run_id: str, how: str) -> RunLostError:
        self._ledger.mark_corrupted(run_id)
        return RunLostError(
            f"the state of run {run_id} was {how}; create a training client from the run's last "
            "checkpoint and go on from there"
        )

    def _forward_backward(self, record: OpRecord, op: ForwardBackward) -> Executed | None:
        run_id = record.scope
        under_way = self._passes.pop(run_id, None)
        self._residency.let_go(run_id)
        if under_way is None:
            state = self._state(run_id) if op.forward_only else self._in_window(record)
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
        state = self._state(record.scope)
        window = self._ledger.gradient_window(record.scope, record.seq_id)
        state.enter_window(window.start_seq_id)
        for failed in window.failed:
            state.fail_window(f"seq_id {failed.seq_id}: {failed.message}")
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

    def _load(self, checkpoint: Checkpoint, with_optimizer: bool) -> TrainingState:
        arrays, _ = self._store.read_adapter(checkpoint.address)
        adapter = AdapterState.from_arrays(self._base_model, checkpoint.lora, arrays)
        if not with_optimizer:
            return TrainingState(adapter)
        moments = self._store.read_optimizer(checkpoint.address)
        return TrainingState(adapter, OptimizerState.from_arrays(adapter.layout, moments))

    def _load_into(
        self, run_id: str, source: CheckpointAddress, owner: str, with_optimizer: bool
    ) -> None:
        self._expect(run_id)
        before = _shape(self._residency.lora(run_id))
        checkpoint = self._checkpoint(source, owner)
        if _shape(checkpoint.lora) != before:
            raise InvalidInputError(
                f"{source} has LoRA settings {_shape(checkpoint.lora)}; the run has "
                f"{before}. Create a new training client from the checkpoint instead"
            )
        self._add(run_id, checkpoint.lora, lambda: self._load(checkpoint, with_optimizer))

    def _save(self, record: OpRecord, op: SaveState | SaveForSampler | SaveExternal) -> Executed:
        state = self._state(record.scope)
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


def _done(result: Result) -> Executed:
    return Executed(Succeeded(result))


def _shape(lora: LoraConfig) -> dict[str, int | bool]:
    return {
        "rank": lora.rank,
        "train_attn": lora.train_attn,
        "train_mlp": lora.train_mlp,
        "train_unembed": lora.train_unembed,
    }
