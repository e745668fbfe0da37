"""The log of ops, their outcomes, and who may settle them, as methods of the ledger."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from datetime import datetime

from sqlalchemy import Connection

from tinsmith.domain.ops import CreateRun, CreateRunFromState, Op, Sample
from tinsmith.domain.outcomes import Failed, Outcome
from tinsmith.domain.records import Checkpoint, Run
from tinsmith.ledger import op_reading, oplog, settling
from tinsmith.ledger.codec import encode
from tinsmith.ledger.entries import (
    Backlog,
    GradientWindow,
    OpRecord,
    OpStatus,
    Settlement,
)
from tinsmith.ledger.ledger_file import LedgerFile
from tinsmith.tracing import ROOT, Traces, now

_RESULTS_PER_SWEEP = 500


class OpLedger(LedgerFile):
    traces: Traces | None = None
    """Where requests that have entered the log are told of, if anybody collects them."""

    def create_run(
        self, run: Run, op: CreateRun | CreateRunFromState, *, backlog: Backlog | None = None
    ) -> str:
        """The run's row and its op 0, in one transaction; the op's request_id.

        Raises:
            SequenceReusedError: the run exists, made by a different op.
            BusyError: see `append`.
        """
        entry = oplog.Entry.of(run.run_id, 0, op, owner=run.owner, base_model=run.base_model)
        return self._logged(
            entry, lambda connection: oplog.create_run(connection, run, entry, backlog)
        )

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
        return self._logged(entry, lambda connection: append(connection, entry, backlog))

    def _logged(self, entry: oplog.Entry, append: Callable[[Connection], str]) -> str:
        begun_ns = now()
        request_id = self._write(append)
        if self.traces is not None:
            self.traces.tell(
                request_id,
                ROOT,
                begun_ns,
                **{
                    "tinsmith.kind": entry.kind,
                    "tinsmith.project": entry.owner,
                    "tinsmith.payload_bytes": len(entry.payload or b""),
                },
            )
        return request_id

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
            return op_reading.pending(connection, base_model, after, max_bytes)

    def gradient_window(self, run_id: str, seq_id: int) -> GradientWindow:
        """The window that `seq_id` stands in: since the last optim_step, load or creation before
        it. Ops that were refused at intake count; forward-only ones do not."""
        with self._read() as connection:
            return op_reading.gradient_window(connection, run_id, seq_id)

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
            return op_reading.status(connection, request_id)

    def outcomes(self, request_ids: Iterable[str]) -> dict[str, Outcome]:
        """Of these ops, the outcomes of those that are settled."""
        with self._read() as connection:
            return op_reading.outcomes(connection, request_ids)

    def settled_samples(self, sampler_id: str, low: int, high: int) -> list[str]:
        """Request_ids of the sampler's ops from `low` to below `high` whose outcomes are kept."""
        with self._read() as connection:
            return op_reading.settled_samples(connection, sampler_id, low, high)

    def sweep(self, samples_before: datetime) -> int:
        """Drop results of sample ops settled before that time; how many there were.

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
        return num_results

    def acquire_lease(self, base_model: str, holder: str) -> int:
        """Become the one engine that may settle ops of this base model; the lease's epoch.

        Whoever held it before can settle nothing any more.
        """
        return self._write(
            lambda connection: settling.acquire_lease(connection, base_model, holder)
        )
