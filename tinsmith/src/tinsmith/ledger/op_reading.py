"""What the log of ops holds, read. Functions of an open transaction."""

from __future__ import annotations

from collections.abc import Iterable

from sqlalchemy import Connection, bindparam, select

from tinsmith.domain.outcomes import Outcome
from tinsmith.ledger.codec import decode
from tinsmith.ledger.entries import FailedOp, GradientWindow, OpRecord, OpStatus
from tinsmith.ledger.oplog import IS_PLACE, at_place, parse_request_id
from tinsmith.ledger.schema import ops, runs

_IDS_PER_QUERY = 200

# What every request goes through is built once: building costs more than executing.
_STATUS = select(ops.c.owner, ops.c.kind, ops.c.settled_at, ops.c.outcome).where(IS_PLACE)
_OUTCOMES = select(ops.c.seq_id, ops.c.outcome).where(
    ops.c.scope == bindparam("at_scope"),
    ops.c.seq_id.in_(bindparam("at_seq_ids", expanding=True)),
    ops.c.outcome.is_not(None),
)
_PENDING = (
    select(
        ops.c.row,
        ops.c.scope,
        ops.c.seq_id,
        ops.c.owner,
        ops.c.appended_at,
        ops.c.payload,
    )
    .where(
        ops.c.base_model == bindparam("of_model"),
        ops.c.settled_at.is_(None),
        ops.c.row > bindparam("after_row"),
    )
    .order_by(ops.c.row)
)
_IS_EARLIER = (ops.c.scope == bindparam("at_scope")) & (ops.c.seq_id < bindparam("at_seq_id"))
_BEGINS_WINDOW = ops.c.kind.in_(["create_run", "create_run_from_state", "optim_step"]) | (
    (ops.c.kind == "load_state") & ops.c.is_failed.is_(False)
)
# Ordered and limited, so that the index is read backwards for a few rows, not all of them.
_WINDOW_START = (
    select(ops.c.seq_id).where(_IS_EARLIER, _BEGINS_WINDOW).order_by(ops.c.seq_id.desc()).limit(1)
)
_FAILED_IN_WINDOW = (
    select(ops.c.seq_id, ops.c.outcome)
    .where(
        _IS_EARLIER,
        ops.c.seq_id > bindparam("after_seq_id"),
        ops.c.kind == "forward_backward",
        ops.c.is_failed,
    )
    .order_by(ops.c.seq_id)
)


def pending(
    connection: Connection, base_model: str, after: int, max_bytes: int | None
) -> list[OpRecord]:
    rows = connection.execute(_PENDING, {"of_model": base_model, "after_row": after})
    records: list[OpRecord] = []
    num_bytes = 0
    for row in rows:
        num_bytes += len(row.payload)
        if max_bytes is not None and records and num_bytes > max_bytes:
            break
        records.append(
            OpRecord(
                row.row,
                f"{row.scope}#{row.seq_id}",
                row.scope,
                row.seq_id,
                row.owner,
                decode(row.payload),
                row.appended_at,
            )
        )
    return records


def gradient_window(connection: Connection, run_id: str, seq_id: int) -> GradientWindow:
    here = at_place(run_id, seq_id)
    start = connection.execute(_WINDOW_START, here).scalar()
    start = -1 if start is None else start
    rows = connection.execute(_FAILED_IN_WINDOW, {**here, "after_seq_id": start})
    failed = tuple(FailedOp(row.seq_id, decode(row.outcome).message) for row in rows)
    return GradientWindow(start, failed)


def last_seq_id(connection: Connection, run_id: str) -> int | None:
    return connection.execute(select(runs.c.last_seq_id).where(runs.c.run_id == run_id)).scalar()


def status(connection: Connection, request_id: str) -> OpStatus | None:
    place = parse_request_id(request_id)
    if place is None:
        return None
    row = connection.execute(_STATUS, at_place(*place)).one_or_none()
    if row is None:
        return None
    if row.settled_at is None:
        return OpStatus(row.owner, row.kind, None)
    if row.outcome is None:
        return OpStatus(row.owner, row.kind, None, is_gone=True)
    return OpStatus(row.owner, row.kind, decode(row.outcome))


def outcomes(connection: Connection, request_ids: Iterable[str]) -> dict[str, Outcome]:
    by_scope: dict[str, list[int]] = {}
    for place in map(parse_request_id, request_ids):
        if place is not None:
            by_scope.setdefault(place[0], []).append(place[1])
    found: dict[str, Outcome] = {}
    for scope, seq_ids in by_scope.items():
        for start in range(0, len(seq_ids), _IDS_PER_QUERY):
            rows = connection.execute(
                _OUTCOMES,
                {"at_scope": scope, "at_seq_ids": seq_ids[start : start + _IDS_PER_QUERY]},
            )
            found.update((f"{scope}#{row.seq_id}", decode(row.outcome)) for row in rows)
    return found


def settled_samples(connection: Connection, scope: str, low: int, high: int) -> list[str]:
    rows = connection.execute(
        select(ops.c.seq_id)
        .where(
            ops.c.scope == scope,
            ops.c.seq_id >= low,
            ops.c.seq_id < high,
            ops.c.outcome.is_not(None),
        )
        .order_by(ops.c.settled_at, ops.c.row)
    )
    return [f"{scope}#{row.seq_id}" for row in rows]
