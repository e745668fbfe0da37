"""Outcomes and what goes with them, leases, and what is dropped afterwards. Functions of an open
transaction."""

from __future__ import annotations

import hashlib
from dataclasses import asdict, replace
from datetime import UTC, datetime
from typing import Any

from sqlalchemy import Connection, bindparam, delete, insert, select, update

from tinsmith.domain.errors import NotFoundError
from tinsmith.domain.outcomes import Failed, Saved
from tinsmith.domain.records import Sampler
from tinsmith.ledger import checkpoint_rows, history, run_rows
from tinsmith.ledger.entries import Execution, LeaseLostError, Settlement
from tinsmith.ledger.oplog import IS_PLACE, at_place, parse_request_id
from tinsmith.ledger.schema import leases, ops, samplers, sessions

_FIND = (
    select(ops.c.row, ops.c.scope, ops.c.kind, ops.c.base_model, ops.c.settled_at, leases.c.epoch)
    .outerjoin(leases, leases.c.base_model == ops.c.base_model)
    .where(IS_PLACE)
)
_IS_ROW = ops.c.row == bindparam("at_row")
_SETTLE = (
    update(ops)
    .where(_IS_ROW)
    .values(
        settled_at=bindparam("at"),
        is_failed=bindparam("failed"),
        execution=bindparam("how"),
        outcome=bindparam("encoded"),
    )
)
_DROP_PAYLOAD = update(ops).where(_IS_ROW).values(payload=None)


def acquire_lease(connection: Connection, base_model: str, holder: str) -> int:
    is_it = leases.c.base_model == base_model
    now = datetime.now(UTC)
    last = connection.execute(select(leases.c.epoch).where(is_it)).scalar()
    if last is None:
        connection.execute(
            insert(leases).values(base_model=base_model, epoch=1, holder=holder, acquired_at=now)
        )
        return 1
    connection.execute(
        update(leases).where(is_it).values(epoch=last + 1, holder=holder, acquired_at=now)
    )
    return last + 1


def settle(connection: Connection, settlement: Settlement, encoded_outcome: bytes) -> bool:
    """Whether this outcome is the one that stands."""
    place = parse_request_id(settlement.request_id)
    op = None
    if place is not None:
        found = connection.execute(_FIND, at_place(*place))
        op = found.one_or_none()
    if op is None:
        raise NotFoundError(f"there is no request {settlement.request_id!r} to settle")
    if op.epoch != settlement.lease_epoch:
        raise LeaseLostError(
            f"the engine of {op.base_model} has been replaced (its lease was number "
            f"{settlement.lease_epoch}, now it is {op.epoch}); it must stop"
        )
    if op.settled_at is not None:
        return False
    outcome = settlement.outcome
    connection.execute(
        _SETTLE,
        {
            "at_row": op.row,
            "at": datetime.now(UTC),
            "failed": isinstance(outcome, Failed),
            "how": _execution(settlement.execution, encoded_outcome),
            "encoded": encoded_outcome,
        },
    )
    if op.kind == "sample":  # never executed again, unlike what trains
        connection.execute(_DROP_PAYLOAD, {"at_row": op.row})
    if settlement.checkpoint is not None:
        checkpoint_rows.put_checkpoint(connection, settlement.checkpoint)
    if settlement.snapshot is not None:
        history.put_snapshot(connection, settlement.snapshot)
    if isinstance(outcome, Failed):
        if op.kind in ("create_run", "create_run_from_state"):
            run_rows.update_run(connection, op.scope, is_ended=True)
    elif isinstance(outcome.result, Saved):
        _make_sampler(connection, op.scope, outcome.result)
    return True


def cancel_sample(
    connection: Connection, request_id: str, owner: str, encoded_outcome: bytes
) -> str | None:
    """The base model whose engine need not go on; None if there is nothing to cancel."""
    place = parse_request_id(request_id)
    if place is None:
        return None
    is_waiting = (
        (ops.c.scope == place[0])
        & (ops.c.seq_id == place[1])
        & (ops.c.owner == owner)
        & (ops.c.kind == "sample")
        & ops.c.settled_at.is_(None)
    )
    base_model = connection.execute(select(ops.c.base_model).where(is_waiting)).scalar()
    if base_model is not None:
        connection.execute(
            update(ops)
            .where(is_waiting)
            .values(
                settled_at=datetime.now(UTC), is_failed=True, outcome=encoded_outcome, payload=None
            )
        )
    return base_model


def drop_sample_results(connection: Connection, before: datetime, limit: int) -> int:
    """How many results went; fewer than `limit` means that none is left."""
    old = (
        select(ops.c.row)
        .where(ops.c.kind == "sample", ops.c.outcome.is_not(None), ops.c.settled_at < before)
        .limit(limit)
    )
    return connection.execute(update(ops).where(ops.c.row.in_(old)).values(outcome=None)).rowcount


def drop_samples_of_ended_sessions(connection: Connection, before: datetime, limit: int) -> int:
    """Whole rows, of which nobody will send a repeat any more."""
    over = (
        select(samplers.c.sampler_id)
        .join(sessions, sessions.c.session_id == samplers.c.session_id)
        .where(sessions.c.ended_at < before)
    )
    old = (
        select(ops.c.row)
        .where(ops.c.scope.in_(over), ops.c.kind == "sample", ops.c.settled_at < before)
        .limit(limit)
    )
    return connection.execute(delete(ops).where(ops.c.row.in_(old))).rowcount


def _execution(execution: Execution | None, encoded_outcome: bytes) -> dict[str, Any] | None:
    if execution is None:
        return None
    digest = hashlib.sha256(encoded_outcome).hexdigest()
    return asdict(replace(execution, digest=digest))


def _make_sampler(connection: Connection, run_id: str, saved: Saved) -> None:
    run = run_rows.find_run(connection, run_id)
    if saved.sampler_id is None or run is None:
        return
    if run_rows.find_sampler(connection, saved.sampler_id) is None:
        run_rows.create_sampler(
            connection,
            Sampler(saved.sampler_id, run.session_id, run.owner, run.base_model, saved.address),
        )
