"""Intake of training runs: who may, what is well formed, and into the log with it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime

from tinsmith import config
from tinsmith.domain.addresses import (
    CheckpointAddress,
    CheckpointKind,
    check_name,
    run_id_of,
    sampler_id_of,
)
from tinsmith.domain.errors import InvalidInputError, NotFoundError
from tinsmith.domain.ops import (
    CreateRun,
    CreateRunFromState,
    LoadState,
    LoraConfig,
    RunOp,
    SaveExternal,
    SaveForSampler,
    SaveState,
)
from tinsmith.domain.outcomes import Failed, FailureCategory
from tinsmith.domain.records import Caller, Checkpoint, Run
from tinsmith.domain.training_rules import LossRule
from tinsmith.ledger.entries import RunEndedError, logged_kind
from tinsmith.ledger.ledger import Ledger
from tinsmith.service.models import Models
from tinsmith.service.quotas import Quotas
from tinsmith.service.seeds import check_seed, seed_of
from tinsmith.service.sessions import Sessions
from tinsmith.service.training_checks import (
    check_lora,
    check_metadata,
    check_trainable,
    check_training_op,
)

UNNAMED_PREFIX = "_unnamed-"
"""Names of the checkpoints behind unnamed saves begin so, and no others."""

_SAVE_KINDS = {
    CheckpointKind.TRAINING: "save_state",
    CheckpointKind.SAMPLER: "save_for_sampler",
    CheckpointKind.EXTERNAL: "save_external",
}


class Runs:
    """A request whose run and place can be read is never turned away: what is wrong with it is
    logged as its outcome, because a hole in the sequence could not be filled by the client."""

    def __init__(
        self,
        ledger: Ledger,
        sessions: Sessions,
        models: Models,
        losses: Sequence[LossRule],
        limits: config.Limits,
        quotas: Quotas,
        ring: Callable[[str], object],
    ) -> None:
        self._ledger = ledger
        self._sessions = sessions
        self._models = models
        self._losses = {rule.name: rule for rule in losses}
        self._limits = limits
        self._quotas = quotas
        self._ring = ring

    def create(
        self,
        caller: Caller,
        session_id: str,
        model_seq_id: int,
        *,
        base_model: str,
        rank: int,
        seed: int | None = None,
        train_attn: bool = True,
        train_mlp: bool = True,
        train_unembed: bool = True,
        user_metadata: Mapping[str, str] | None = None,
    ) -> str:
        """A new run `<session_id>:train:<model_seq_id>`; its request_id.

        Without a seed one is derived from the run's id, so a repeat finds the same one.

        Raises:
            InvalidInputError: unknown base model, rank or targets out of range, ended session, a
                quota exceeded.
            NotFoundError: no such session.
            SequenceReusedError: that number already holds a different run.
        """
        run_id = _run_id(session_id, model_seq_id)
        lora = LoraConfig(
            rank=rank,
            seed=seed_of(run_id, 0) if seed is None else seed,
            train_attn=train_attn,
            train_mlp=train_mlp,
            train_unembed=train_unembed,
        )
        op = CreateRun(base_model, lora, dict(user_metadata or {}))
        known = self._made_before(caller, session_id, run_id)
        if known is None:
            check_lora(lora, self._limits.max_rank)
            check_seed(lora.seed)
            check_metadata(op.user_metadata)
            self._models.get(base_model)
        return self._create(caller, session_id, run_id, lora, op, is_repeat=known is not None)

    def create_from_state(
        self,
        caller: Caller,
        session_id: str,
        model_seq_id: int,
        *,
        path: str,
        with_optimizer: bool,
        base_model: str | None = None,
        user_metadata: Mapping[str, str] | None = None,
    ) -> str:
        """A new run that starts from a training checkpoint, the caller's own or a public one.

        Raises:
            InvalidInputError: not the address of a training checkpoint, a checkpoint of a base
                model that is not served here or is not `base_model`, ended session, a quota
                exceeded.
            NotFoundError: no such session or checkpoint.
            SequenceReusedError: that number already holds a different run.
        """
        run_id = _run_id(session_id, model_seq_id)
        source = _training_address(path)
        metadata = dict(user_metadata or {})
        known = self._made_before(caller, session_id, run_id)
        if known is not None:  # a repeat, which stays good even if the checkpoint has gone since
            op = CreateRunFromState(known.base_model, source, with_optimizer, metadata)
            return self._create(caller, session_id, run_id, known.lora, op, is_repeat=True)
        checkpoint = self._ledger.visible_checkpoint(source, caller.owner)
        if checkpoint is None:
            raise NotFoundError(f"there is no checkpoint {source}")
        if base_model is not None and base_model != checkpoint.base_model:
            raise InvalidInputError(
                f"{source} is an adapter of {checkpoint.base_model}, not of {base_model}"
            )
        self._models.get(checkpoint.base_model)
        check_metadata(metadata)
        op = CreateRunFromState(checkpoint.base_model, source, with_optimizer, metadata)
        return self._create(caller, session_id, run_id, checkpoint.lora, op, is_repeat=False)

    def submit(self, caller: Caller, run_id: str, seq_id: int, op: RunOp) -> str:
        """Log an op of a run; the request_id its outcome will be read by.

        A bad op is logged and settled as Failed(user) at once. Repeats are safe.

        Raises:
            NotFoundError: no such run.
            InvalidInputError: seq_id is lower than one already logged, and no repeat.
            SequenceReusedError: seq_id holds different work.
            BusyError: too much is waiting, or there is no room for now.
        """
        run = self.get(caller, run_id)
        try:
            model = self._models.get(run.base_model)
            check_training_op(op, model, self._losses)
            size = self._quotas.check_op(run.owner, op, model)
        except InvalidInputError as error:
            return self._log_failed(run, seq_id, logged_kind(op), str(error))
        try:
            with self._quotas.admission(run.owner, size.tokens) as backlog:
                request_id = self._ledger.append(
                    run_id,
                    seq_id,
                    op,
                    owner=run.owner,
                    base_model=run.base_model,
                    backlog=backlog,
                )
        except RunEndedError as error:
            return self._log_failed(run, seq_id, logged_kind(op), self._how_to_go_on(run, error))
        self._ring(run.base_model)
        return request_id

    def refuse(self, caller: Caller, run_id: str, seq_id: int, kind: str, message: str) -> str:
        """Log an op that could be read but not be made sense of (an image, another optimizer),
        settled as Failed(user) with `message`. `kind` as `kind_of` names it. Raises as `submit`.
        """
        return self._log_failed(self.get(caller, run_id), seq_id, kind, message)

    def save_state(
        self,
        caller: Caller,
        run_id: str,
        seq_id: int,
        *,
        name: str,
        overwrite: bool = False,
        ttl_s: int | None = None,
        user_metadata: Mapping[str, str] | None = None,
    ) -> str:
        """Adapter and optimizer under tinker://<run_id>/weights/<name>. Raises as `submit`."""
        return self._save(
            caller,
            run_id,
            seq_id,
            CheckpointKind.TRAINING,
            name,
            lambda address: SaveState(address, overwrite, ttl_s, dict(user_metadata or {})),
        )

    def save_for_sampler(
        self,
        caller: Caller,
        run_id: str,
        seq_id: int,
        *,
        name: str | None,
        sampling_session_seq_id: int | None = None,
        is_inflight: bool = False,
        ttl_s: int | None = None,
        user_metadata: Mapping[str, str] | None = None,
    ) -> str:
        """The adapter alone, frozen. With a name: tinker://<run_id>/sampler_weights/<name>.
        Without: an unlisted checkpoint behind sampler `<session>:sample:<sampling_session_seq_id>`,
        which exists once the op has succeeded. All inflight saves of a run write the same one, so
        that the samplers of earlier ones go over to it with their next request. Raises as
        `submit`."""
        metadata = dict(user_metadata or {})
        if name is not None:
            return self._save(
                caller,
                run_id,
                seq_id,
                CheckpointKind.SAMPLER,
                name,
                lambda address: SaveForSampler(address, None, ttl_s, metadata),
            )
        if sampling_session_seq_id is None or sampling_session_seq_id < 0:
            return self.refuse(
                caller,
                run_id,
                seq_id,
                "save_for_sampler",
                "a save for sampling needs a name or a sampling_session_seq_id of 0 or more, "
                f"got {sampling_session_seq_id}",
            )
        run = self.get(caller, run_id)
        which = "inflight" if is_inflight else sampling_session_seq_id
        address = CheckpointAddress(run_id, CheckpointKind.SAMPLER, f"{UNNAMED_PREFIX}{which}")
        sampler_id = sampler_id_of(run.session_id, sampling_session_seq_id)
        known = self._ledger.sampler(sampler_id)
        if known is not None and known.checkpoint != address:
            return self._log_failed(
                run,
                seq_id,
                "save_for_sampler",
                f"sampling_session_seq_id {sampling_session_seq_id} is already a sampler of "
                f"{known.checkpoint or known.base_model}",
            )
        save = SaveForSampler(address, sampler_id, ttl_s, metadata, overwrite=is_inflight)
        return self.submit(caller, run_id, seq_id, save)

    def save_external(
        self,
        caller: Caller,
        run_id: str,
        seq_id: int,
        *,
        name: str,
        ttl_s: int | None = None,
        age_recipients: tuple[str, ...] = (),
    ) -> str:
        """The adapter for download, under tinker://<run_id>/external_weights/<name>, encrypted if
        there are recipients. Raises as `submit`."""
        return self._save(
            caller,
            run_id,
            seq_id,
            CheckpointKind.EXTERNAL,
            name,
            lambda address: SaveExternal(address, ttl_s, age_recipients),
        )

    def load_state(
        self, caller: Caller, run_id: str, seq_id: int, *, path: str, with_optimizer: bool
    ) -> str:
        """Replace the run's adapter by a training checkpoint's. Whether the checkpoint exists is
        found out at execution: the save that makes it may still be waiting. Raises as `submit`."""
        try:
            source = CheckpointAddress.parse(path)
        except InvalidInputError as error:
            return self.refuse(caller, run_id, seq_id, "load_state", str(error))
        return self.submit(caller, run_id, seq_id, LoadState(source, with_optimizer))

    def get(self, caller: Caller, run_id: str) -> Run:
        """Raises NotFoundError for what is not there or not the caller's."""
        run = self._ledger.run(run_id)
        if run is None or run.owner != caller.owner:
            raise NotFoundError(f"there is no training run {run_id!r}")
        return run

    def list(
        self, caller: Caller, *, limit: int, offset: int, project_id: str | None = None
    ) -> tuple[list[Run], int]:
        """One page, last used first, and how many there are in all."""
        return self._ledger.runs(caller.owner, limit=limit, offset=offset, project_id=project_id)

    def last_checkpoints(self, run: Run) -> tuple[Checkpoint | None, Checkpoint | None]:
        """The run's newest training checkpoint and its newest sampler checkpoint."""
        return (
            self._ledger.last_checkpoint(run.run_id, CheckpointKind.TRAINING),
            self._ledger.last_checkpoint(run.run_id, CheckpointKind.SAMPLER),
        )

    def _made_before(self, caller: Caller, session_id: str, run_id: str) -> Run | None:
        """The run, if this creation is a repeat. Raises as `create` about the session."""
        run = self._ledger.run(run_id)
        if run is None:
            self._sessions.live(caller, session_id)
        else:
            self._sessions.get(caller, session_id)
        return run

    def _create(
        self,
        caller: Caller,
        session_id: str,
        run_id: str,
        lora: LoraConfig,
        op: CreateRun | CreateRunFromState,
        *,
        is_repeat: bool,
    ) -> str:
        now = datetime.now(UTC)
        run = Run(
            run_id=run_id,
            session_id=session_id,
            owner=caller.owner,
            base_model=op.base_model,
            lora=lora,
            created_at=now,
            last_request_at=now,
            user_metadata=op.user_metadata,
        )
        if is_repeat:  # takes no room
            request_id = self._ledger.create_run(run, op)
        else:
            with self._quotas.creation(caller.owner, lora.rank) as backlog:
                request_id = self._ledger.create_run(run, op, backlog=backlog)
        self._ring(op.base_model)
        return request_id

    def _save(
        self,
        caller: Caller,
        run_id: str,
        seq_id: int,
        kind: CheckpointKind,
        name: str,
        op_at: Callable[[CheckpointAddress], SaveState | SaveForSampler | SaveExternal],
    ) -> str:
        try:
            check_name(name)
            if name.startswith(UNNAMED_PREFIX):
                raise InvalidInputError(
                    f"checkpoint name {name!r} is not allowed: {UNNAMED_PREFIX} is kept for saves "
                    "without a name"
                )
        except InvalidInputError as error:
            return self.refuse(caller, run_id, seq_id, _SAVE_KINDS[kind], str(error))
        return self.submit(caller, run_id, seq_id, op_at(CheckpointAddress(run_id, kind, name)))

    def _log_failed(self, run: Run, seq_id: int, kind: str, message: str) -> str:
        return self._ledger.append_failed(
            run.run_id,
            seq_id,
            kind,
            Failed(FailureCategory.USER, message),
            owner=run.owner,
            base_model=run.base_model,
        )

    def _how_to_go_on(self, run: Run, ended: RunEndedError) -> str:
        last = self._ledger.last_checkpoint(run.run_id, CheckpointKind.TRAINING)
        if last is None:
            return f"{ended}. It has no checkpoint to go on from; create a new training client"
        return (
            f"{ended}. To go on, create a new training client from its last checkpoint, "
            f"{last.address} (create_training_client_from_state_with_optimizer)"
        )


def _run_id(session_id: str, model_seq_id: int) -> str:
    if model_seq_id < 0:
        raise InvalidInputError(f"model_seq_id {model_seq_id} is out of range: 0 or more")
    return run_id_of(session_id, model_seq_id)


def _training_address(path: str) -> CheckpointAddress:
    address = CheckpointAddress.parse(path)
    check_trainable(address)
    return address
