"""The durable truth: sessions, runs, the log of ops, samplers, checkpoints, leases."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import TypeVar

from sqlalchemy import Connection, Engine

from tinsmith.domain.addresses import CheckpointAddress, CheckpointKind
from tinsmith.domain.ops import CreateRun, CreateRunFromState, Op, Sample
from tinsmith.domain.outcomes import Failed, Outcome
from tinsmith.domain.records import Checkpoint, Run, Sampler, Session, StorageUse
from tinsmith.domain.session_search import SessionSearch, SessionSummary
from tinsmith.ledger import adoption, catalogue, oplog, session_search, settling
from tinsmith.ledger.codec import encode
from tinsmith.ledger.database import open_engine, path_of, storage_errors
from tinsmith.ledger.entries import (
    Backlog,
    GradientWindow,
    OpRecord,
    OpStatus,
    Settlement,
    SweepCount,
)
from tinsmith.ledger.migrations import bring_up_to_date
from tinsmith.ledger.writer import Writer

_T = TypeVar("_T")

_RESULTS_PER_SWEEP = 500
_PAYLOADS_PER_SWEEP = 50


class Ledger:
    """One open ledger. Every method may be called from any thread; when one that writes returns,
    what it wrote is on disk. Several processes may have the same ledger open.

    All methods raise StorageError when the disk or the database refuses; nothing of that call
    was kept then.
    """

    def __init__(self, engine: Engine, path: Path) -> None:
        """Use `open`."""
        self._engine = engine
        self._path = path
        self._writer = Writer(engine, path)

    @classmethod
    def open(cls, url_or_path: str | Path) -> Ledger:
        """Open the ledger in this SQLite file (or sqlite:/// URL), made or migrated as needed.

        Raises:
            StorageError: it cannot be opened, or a newer tinsmith wrote it.
        """
        path = path_of(url_or_path)
        engine = open_engine(path)
        ledger = cls(engine, path)
        try:
            ledger._write(bring_up_to_date)
        except BaseException:
            ledger.close()
            raise
        return ledger

    def close(self) -> None:
        """Finish the writes that are under way and let go of the file."""
        self._writer.close()
        self._engine.dispose()

    # Sessions

    def create_session(
        self,
        owner: str,
        *,
        idempotency_key: str | None = None,
        tags: Sequence[str] = (),
        user_metadata: Mapping[str, str] | None = None,
        display_name: str | None = None,
        project_id: str | None = None,
    ) -> Session:
        """A new session; the same owner and idempotency key get the first one back."""
        return self._write(
            lambda connection: catalogue.create_session(
                connection,
                owner,
                idempotency_key,
                tags,
                user_metadata or {},
                display_name,
                project_id,
            )
        )

    def touch_session(self, session_id: str) -> bool:
        """Note that it was heard of just now; False if it is not there or over."""
        return self._write(lambda connection: catalogue.touch_session(connection, session_id))

    def end_session(self, session_id: str, reason: str) -> list[str]:
        """End it and release its runs, in one transaction. The first reason stands.

        Returns:
            base models whose engines now have something to release.
        """
        return self._write(lambda connection: oplog.end_session(connection, session_id, reason))

    def session(self, session_id: str) -> Session | None:
        with self._read() as connection:
            return catalogue.find_session(connection, session_id)

    def sessions(self, owner: str, *, limit: int, offset: int = 0) -> list[Session]:
        """Newest first."""
        with self._read() as connection:
            return catalogue.list_sessions(connection, owner, limit, offset)

    def search_sessions(
        self, owner: str, search: SessionSearch
    ) -> tuple[list[SessionSummary], bool]:
        """One page, newest first, and whether more follow."""
        with self._read() as connection:
            return session_search.search_sessions(connection, owner, search)

    def set_project(self, session_id: str, project_id: str) -> bool:
        """False if there is no such session."""
        return self._write(
            lambda connection: catalogue.set_project(connection, session_id, project_id)
        )

    def silent_sessions(self, before: datetime) -> list[Session]:
        """Those not ended of which nothing, heartbeat or training op, was heard since."""
        with self._read() as connection:
            return catalogue.silent_sessions(connection, before)

    # Ops

    def create_run(
        self, run: Run, op: CreateRun | CreateRunFromState, *, backlog: Backlog | None = None
    ) -> str:
        """The run's row and its op 0, in one transaction; the op's request_id.

        Raises:
            SequenceReusedError: the run exists, made by a different op.
            BusyError: see `append`.
        """
        entry = oplog.Entry.of(run.run_id, 0, op, owner=run.owner, base_model=run.base_model)
        return self._write(lambda connection: oplog.create_run(connection, run, entry, backlog))

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
        entry = oplog.Entry.of(scope, seq_id, op, owner=owner, base_model=base_model)
        append = oplog.append_sample if isinstance(op, Sample) else oplog.append_to_run
        return self._write(lambda connection: append(connection, entry, backlog))

    def append_failed(
        self,
        run_id: str,
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
        entry = oplog.Entry.failed(
            run_id, seq_id, kind, failure, owner=owner, base_model=base_model
        )
        return self._write(lambda connection: oplog.append_to_run(connection, entry, None))

    def release_run(self, run_id: str) -> bool:
        """End the run and log a Release behind all its ops; False if it is not there or ended.

        The Release stands at seq_id RELEASE_SEQ_ID, above every number a client can send, so
        that a late request finds its own place and is told why it fails.
        """
        released = self._write(lambda connection: oplog.release_run(connection, run_id))
        return released is not None

    def pending(
        self, base_model: str, after: int = 0, *, max_bytes: int | None = None
    ) -> list[OpRecord]:
        """Unsettled ops whose row number is greater than `after`, in order of arrival.

        With `max_bytes`, the first ones whose payloads fit together, but at least one: call again
        with the last one's row until nothing comes.
        """
        with self._read() as connection:
            return oplog.pending(connection, base_model, after, max_bytes)

    def gradient_window(self, run_id: str, seq_id: int) -> GradientWindow:
        """The window that `seq_id` stands in: since the last optim_step, load or creation before
        it. Ops that were refused at intake count; forward-only ones do not."""
        with self._read() as connection:
            return oplog.gradient_window(connection, run_id, seq_id)

    def settle(
        self,
        request_id: str,
        outcome: Outcome,
        *,
        lease_epoch: int,
        checkpoint: Checkpoint | None = None,
    ) -> bool:
        """As `settle_many` for one op; whether this outcome is the one that stands."""
        settlement = Settlement(request_id, outcome, lease_epoch, checkpoint)
        return bool(self.settle_many([settlement]))

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
        encoded = [encode(settlement.outcome) for settlement in settlements]

        def settle_all(connection: Connection) -> list[str]:
            return [
                settlement.request_id
                for settlement, outcome in zip(settlements, encoded, strict=True)
                if settling.settle(connection, settlement, outcome)
            ]

        return self._write(settle_all)

    def cancel_sample(self, request_id: str, owner: str, failure: Failed) -> str | None:
        """Settle the owner's sample as failed if it has no outcome yet: what the engine still
        makes of it is ignored.

        Returns:
            the base model whose engine need not go on with it; None if nothing was changed.
        """
        encoded = encode(failure)
        return self._write(
            lambda connection: settling.cancel_sample(connection, request_id, owner, encoded)
        )

    def op_status(self, request_id: str) -> OpStatus | None:
        with self._read() as connection:
            return oplog.status(connection, request_id)

    def outcomes(self, request_ids: Iterable[str]) -> dict[str, Outcome]:
        """Of these ops, the outcomes of those that are settled."""
        with self._read() as connection:
            return oplog.outcomes(connection, request_ids)

    def settled_samples(self, sampler_id: str, low: int, high: int) -> list[str]:
        """Request_ids of the sampler's ops from `low` to below `high` whose outcomes are kept."""
        with self._read() as connection:
            return oplog.settled_samples(connection, sampler_id, low, high)

    def sweep(self, samples_before: datetime) -> SweepCount:
        """Drop results of sample ops settled before that time, and what released runs were fed.

        Works in small transactions, so that nobody waits long for the lock.
        """
        num_results = self._repeatedly(
            _RESULTS_PER_SWEEP,
            lambda connection, limit: settling.drop_sample_results(
                connection, samples_before, limit
            ),
        )
        self._repeatedly(
            _RESULTS_PER_SWEEP,
            lambda connection, limit: settling.drop_samples_of_ended_sessions(
                connection, samples_before, limit
            ),
        )
        num_payloads = self._repeatedly(
            _PAYLOADS_PER_SWEEP, settling.drop_payloads_of_released_runs
        )
        return SweepCount(num_results, num_payloads)

    # Leases

    def acquire_lease(self, base_model: str, holder: str) -> int:
        """Become the one engine that may settle ops of this base model; the lease's epoch.

        Whoever held it before can settle nothing any more.
        """
        return self._write(
            lambda connection: settling.acquire_lease(connection, base_model, holder)
        )

    # Runs and samplers

    def run(self, run_id: str) -> Run | None:
        with self._read() as connection:
            return catalogue.find_run(connection, run_id)

    def runs(
        self, owner: str, *, limit: int, offset: int = 0, project_id: str | None = None
    ) -> tuple[list[Run], int]:
        """One page, last used first, and how many there are in all."""
        with self._read() as connection:
            return catalogue.list_runs(connection, owner, limit, offset, project_id)

    def run_ids(self, session_id: str) -> list[str]:
        """Oldest first."""
        with self._read() as connection:
            return catalogue.run_ids(connection, session_id)

    def run_last_seq(self, run_id: str) -> int | None:
        """The highest seq_id that a client has used; None if there is no such run."""
        with self._read() as connection:
            return oplog.last_seq_id(connection, run_id)

    def mark_corrupted(self, run_id: str) -> None:
        """Note that the run's state cannot be had any more."""
        self._write(lambda connection: catalogue.update_run(connection, run_id, is_corrupted=True))

    def create_sampler(self, sampler: Sampler) -> Sampler:
        """Make it, or find the equal one made before.

        Raises:
            SequenceReusedError: the id belongs to a different sampler.
        """
        return self._write(lambda connection: catalogue.create_sampler(connection, sampler))

    def sampler(self, sampler_id: str) -> Sampler | None:
        with self._read() as connection:
            return catalogue.find_sampler(connection, sampler_id)

    def sampler_ids(self, session_id: str) -> list[str]:
        """Oldest first."""
        with self._read() as connection:
            return catalogue.sampler_ids(connection, session_id)

    # Checkpoints

    def checkpoint(self, address: CheckpointAddress) -> Checkpoint | None:
        """The catalogue row, expired or not."""
        with self._read() as connection:
            return catalogue.find_checkpoint(connection, address)

    def visible_checkpoint(self, address: CheckpointAddress, owner: str) -> Checkpoint | None:
        """The checkpoint, if it has not expired and is the owner's own or public."""
        found = self.checkpoint(address)
        if found is None or not (found.is_public or found.owner == owner):
            return None
        is_kept = found.expires_at is None or found.expires_at > datetime.now(UTC)
        return found if is_kept else None

    def checkpoints(
        self,
        owner: str | None = None,
        run_id: str | None = None,
        *,
        limit: int | None = None,
        offset: int = 0,
    ) -> tuple[list[Checkpoint], int]:
        """One page of those listed and not expired, newest first, and how many there are."""
        with self._read() as connection:
            return catalogue.list_checkpoints(
                connection, owner=owner, run_id=run_id, kind=None, limit=limit, offset=offset
            )

    def last_checkpoint(self, run_id: str, kind: CheckpointKind) -> Checkpoint | None:
        """The newest one listed of that kind."""
        with self._read() as connection:
            found, _ = catalogue.list_checkpoints(
                connection, owner=None, run_id=run_id, kind=kind, limit=1, offset=0
            )
        return found[0] if found else None

    def adopt(
        self,
        run: Run,
        checkpoint: Checkpoint,
        *,
        how: str,
        project_id: str | None = None,
        idempotency_key: str | None = None,
    ) -> None:
        """Enter a checkpoint whose bytes are there, with an ended run and session of its own that
        say `how` it came to be. Nobody can train that run on; new runs may start from it.
        """
        self._write(
            lambda connection: adoption.adopt(
                connection, run, checkpoint, how, project_id, idempotency_key
            )
        )

    def adopted_before(self, owner: str, idempotency_key: str) -> CheckpointAddress | None:
        """What `adopt` made under this key, while it is there."""
        with self._read() as connection:
            found = adoption.adopted_before(connection, owner, idempotency_key)
        return None if found is None else CheckpointAddress.parse(found)

    def storage_use(self, owner: str, project_id: str | None = None) -> list[StorageUse]:
        """By project, or of that one alone."""
        with self._read() as connection:
            return catalogue.storage_use(connection, owner, project_id)

    def set_expiry(self, address: CheckpointAddress, expires_at: datetime | None) -> bool:
        """False if there is no such checkpoint."""
        return self._write(
            lambda connection: catalogue.update_checkpoint(
                connection, address, expires_at=expires_at
            )
        )

    def set_public(self, address: CheckpointAddress, is_public: bool) -> bool:
        """False if there is no such checkpoint."""
        return self._write(
            lambda connection: catalogue.update_checkpoint(connection, address, is_public=is_public)
        )

    def delete_checkpoint(self, address: CheckpointAddress) -> bool:
        """Remove the catalogue row; False if there is none."""
        return self._write(lambda connection: catalogue.delete_checkpoint(connection, address))

    def expired_checkpoints(self, now: datetime) -> list[Checkpoint]:
        """Those whose time has come, and the unlisted ones of ended sessions."""
        with self._read() as connection:
            return catalogue.expired_checkpoints(connection, now)

    def _write(self, function: Callable[[Connection], _T]) -> _T:
        return self._writer.write(function)

    @contextmanager
    def _read(self) -> Iterator[Connection]:
        """A transaction that sees one moment of the ledger throughout."""
        with storage_errors(self._path), self._engine.connect() as connection, connection.begin():
            yield connection

    def _repeatedly(self, limit: int, drop: Callable[[Connection, int], int]) -> int:
        num_dropped = 0
        while True:
            num_now = self._write(lambda connection: drop(connection, limit))
            num_dropped += num_now
            if num_now < limit:
                return num_dropped
