"""The durable truth: sessions, runs, the log of ops, samplers, checkpoints, leases."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from tinsmith.domain.addresses import CheckpointAddress, CheckpointKind
from tinsmith.domain.errors import ServiceError, UserError
from tinsmith.domain.ops import CreateRun, CreateRunFromState, Op
from tinsmith.domain.outcomes import Failed, Outcome
from tinsmith.domain.records import Checkpoint, Run, Sampler, Session


class LeaseLostError(ServiceError):
    """Another engine has taken over this base model; nothing was written."""


class RunEndedError(UserError):
    """The run's session is over: it takes no more ops."""


@dataclass(frozen=True, slots=True)
class Backlog:
    """How many unsettled ops may wait before an append is refused with BusyError."""

    in_all: int
    per_owner: int


@dataclass(frozen=True, slots=True)
class OpRecord:
    """An op that waits to be executed."""

    row: int
    """Grows in order of arrival."""
    request_id: str
    scope: str
    """The run's or the sampler's id."""
    seq_id: int
    owner: str
    op: Op
    appended_at: datetime


@dataclass(frozen=True, slots=True)
class OpStatus:
    """An op seen from outside."""

    owner: str
    kind: str
    outcome: Outcome | None
    is_gone: bool = False
    """It was settled, but the result is kept no longer."""


@dataclass(frozen=True, slots=True)
class Settlement:
    request_id: str
    outcome: Outcome
    lease_epoch: int
    checkpoint: Checkpoint | None = None
    """The catalogue row that a save makes."""


@dataclass(frozen=True, slots=True)
class FailedOp:
    seq_id: int
    message: str


@dataclass(frozen=True, slots=True)
class SweepCount:
    """What `sweep` dropped."""

    results: int
    payloads: int


class Ledger:
    """One open ledger. Every method may be called from any thread; when one that writes returns,
    what it wrote is on disk. Several processes may have the same ledger open.

    All methods raise StorageError when the disk or the database refuses; nothing of that call
    was kept then.
    """

    @classmethod
    def open(cls, url_or_path: str | Path) -> Ledger:
        """Open the ledger in this SQLite file (or sqlite:/// URL), made or migrated as needed.

        Raises:
            StorageError: it cannot be opened, or a newer tinsmith wrote it.
        """
        raise NotImplementedError

    def close(self) -> None:
        """Finish the writes that are under way and let go of the file."""
        raise NotImplementedError

    # Sessions

    def create_session(
        self,
        owner: str,
        *,
        idempotency_key: str | None = None,
        tags: Sequence[str] = (),
        user_metadata: Mapping[str, str] | None = None,
        display_name: str | None = None,
    ) -> Session:
        """A new session; the same owner and idempotency key get the first one back."""
        raise NotImplementedError

    def touch_session(self, session_id: str) -> bool:
        """Note that it was heard of just now; False if it is not there or over."""
        raise NotImplementedError

    def end_session(self, session_id: str, reason: str) -> list[str]:
        """End it and release its runs, in one transaction. The first reason stands.

        Returns:
            base models whose engines now have something to release.
        """
        raise NotImplementedError

    def session(self, session_id: str) -> Session | None:
        raise NotImplementedError

    def sessions(self, owner: str, *, limit: int, offset: int = 0) -> list[Session]:
        """Newest first."""
        raise NotImplementedError

    def silent_sessions(self, before: datetime) -> list[Session]:
        """Those not ended of which nothing, heartbeat or training op, was heard since."""
        raise NotImplementedError

    # Ops

    def create_run(
        self, run: Run, op: CreateRun | CreateRunFromState, *, backlog: Backlog | None = None
    ) -> str:
        """The run's row and its op 0, in one transaction; the op's request_id.

        Raises:
            SequenceReusedError: the run exists, made by a different op.
            BusyError: see `append`.
        """
        raise NotImplementedError

    def append(
        self,
        scope: str,
        seq_id: int,
        op: Op,
        *,
        owner: str,
        base_model: str,
        backlog: Backlog | None = None,
    ) -> str:
        """Make an op durable; return the request_id its outcome is read by.

        Repeating a call is safe: the same (scope, seq_id, op) returns the first call's id, so a
        client that lost our answer may simply ask again.

        Raises:
            SequenceReusedError: (scope, seq_id) already holds different work.
            InvalidInputError: of a run, seq_id is lower than one already logged and no repeat.
            RunEndedError: the run was released.
            NotFoundError: there is no such run.
            BusyError: as many ops as `backlog` allows are waiting.
        """
        raise NotImplementedError

    def append_failed(
        self,
        scope: str,
        seq_id: int,
        kind: str,
        failure: Failed,
        *,
        owner: str,
        base_model: str,
    ) -> str:
        """Log an op that will not be executed, settled as failed at once; its request_id.

        A repeat returns the first call's id, also if the place holds an op of the same kind that
        was accepted. Raises as `append`, but for ended runs and backlog.
        """
        raise NotImplementedError

    def release_run(self, run_id: str) -> bool:
        """End the run and log a Release behind all its ops; False if it is not there or ended.

        The Release stands at seq_id RELEASE_SEQ_ID, above every number a client can send, so
        that a late request finds its own place and is told why it fails.
        """
        raise NotImplementedError

    def pending(
        self, base_model: str, after: int = 0, *, limit: int | None = None
    ) -> list[OpRecord]:
        """Unsettled ops whose row number is greater than `after`, in order of arrival."""
        raise NotImplementedError

    def failed_in_window(self, run_id: str, seq_id: int) -> list[FailedOp]:
        """The failed forward_backwards (not forward-only ones) between the last optim_step, load
        or creation before `seq_id` and `seq_id`; those refused at intake included."""
        raise NotImplementedError

    def settle(
        self,
        request_id: str,
        outcome: Outcome,
        *,
        lease_epoch: int,
        checkpoint: Checkpoint | None = None,
    ) -> bool:
        """As `settle_many` for one op; whether this outcome is the one that stands."""
        raise NotImplementedError

    def settle_many(self, settlements: Sequence[Settlement]) -> list[str]:
        """Record outcomes, all in one transaction with the catalogue rows that go with them.

        The first recorded outcome of an op stands; a later one, and its checkpoint, is ignored.
        A save without a name that succeeded also makes its sampler. A creation that failed ends
        its run.

        Returns:
            request_ids that were settled by this call.

        Raises:
            LeaseLostError: a settlement's epoch is not the current one; nothing was written.
            NotFoundError: no such op; nothing was written.
        """
        raise NotImplementedError

    def op_status(self, request_id: str) -> OpStatus | None:
        raise NotImplementedError

    def outcomes(self, request_ids: Iterable[str]) -> dict[str, Outcome]:
        """Of these ops, the outcomes of those that are settled."""
        raise NotImplementedError

    def sweep(self, samples_before: datetime) -> SweepCount:
        """Drop results of sample ops settled before that time, and what released runs were fed.

        Works in small transactions, so that nobody waits long for the lock.
        """
        raise NotImplementedError

    # Leases

    def acquire_lease(self, base_model: str, holder: str) -> int:
        """Become the one engine that may settle ops of this base model; the lease's epoch.

        Whoever held it before can settle nothing any more.
        """
        raise NotImplementedError

    # Runs and samplers

    def run(self, run_id: str) -> Run | None:
        raise NotImplementedError

    def runs(self, owner: str, *, limit: int, offset: int = 0) -> tuple[list[Run], int]:
        """One page, last used first, and how many there are in all."""
        raise NotImplementedError

    def run_ids(self, session_id: str) -> list[str]:
        """Oldest first."""
        raise NotImplementedError

    def run_last_seq(self, run_id: str) -> int | None:
        """The highest seq_id that a client has used; None if there is no such run."""
        raise NotImplementedError

    def mark_corrupted(self, run_id: str) -> None:
        """Note that the run's state cannot be had any more."""
        raise NotImplementedError

    def create_sampler(self, sampler: Sampler) -> Sampler:
        """Make it, or find the equal one made before.

        Raises:
            SequenceReusedError: the id belongs to a different sampler.
        """
        raise NotImplementedError

    def sampler(self, sampler_id: str) -> Sampler | None:
        raise NotImplementedError

    def sampler_ids(self, session_id: str) -> list[str]:
        """Oldest first."""
        raise NotImplementedError

    # Checkpoints

    def checkpoint(self, address: CheckpointAddress) -> Checkpoint | None:
        """The catalogue row, expired or not."""
        raise NotImplementedError

    def visible_checkpoint(self, address: CheckpointAddress, owner: str) -> Checkpoint | None:
        """The checkpoint, if it has not expired and is the owner's own or public."""
        raise NotImplementedError

    def checkpoints(
        self,
        owner: str | None = None,
        run_id: str | None = None,
        *,
        limit: int | None = None,
        offset: int = 0,
    ) -> tuple[list[Checkpoint], int]:
        """One page of those listed and not expired, newest first, and how many there are."""
        raise NotImplementedError

    def last_checkpoint(self, run_id: str, kind: CheckpointKind) -> Checkpoint | None:
        """The newest one listed of that kind."""
        raise NotImplementedError

    def set_expiry(self, address: CheckpointAddress, expires_at: datetime | None) -> bool:
        """False if there is no such checkpoint."""
        raise NotImplementedError

    def set_public(self, address: CheckpointAddress, is_public: bool) -> bool:
        """False if there is no such checkpoint."""
        raise NotImplementedError

    def delete_checkpoint(self, address: CheckpointAddress) -> bool:
        """Remove the catalogue row; False if there is none."""
        raise NotImplementedError

    def expired_checkpoints(self, now: datetime) -> list[Checkpoint]:
        """Those whose time has come, and the unlisted ones of ended sessions."""
        raise NotImplementedError
