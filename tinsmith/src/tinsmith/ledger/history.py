"""What a run has gone through: its ops, its snapshots, and what is dropped of them. Functions of an
open transaction."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any

from sqlalchemy import Connection, delete, func, insert, select, update

from tinsmith.domain.records import Snapshot
from tinsmith.ledger.codec import decode
from tinsmith.ledger.entries import Execution, LoggedOp
from tinsmith.ledger.schema import (
    HAS_TRAINING_RESULT,
    RELEASE_SEQ_ID,
    leases,
    ops,
    runs,
    sessions,
    snapshots,
)

_SHOWN = (
    ops.c.seq_id,
    ops.c.kind,
    ops.c.appended_at,
    ops.c.settled_at,
    ops.c.is_failed,
    ops.c.execution,
    ops.c.payload.is_not(None).label("has_payload"),
)


def list_ops(connection: Connection, run_id: str, after: int, up_to: int) -> list[LoggedOp]:
    rows = connection.execute(
        select(*_SHOWN)
        .where(ops.c.scope == run_id, ops.c.seq_id > after, ops.c.seq_id <= up_to)
        .order_by(ops.c.seq_id)
    )
    return [_logged(row) for row in rows]


def read_payload(connection: Connection, run_id: str, seq_id: int) -> Any:
    """The op, or None if its payload has been dropped."""
    is_it = (ops.c.scope == run_id) & (ops.c.seq_id == seq_id)
    payload = connection.execute(select(ops.c.payload).where(is_it)).scalar()
    return None if payload is None else decode(payload)


def payload_sizes(connection: Connection, run_id: str) -> dict[int, int]:
    rows = connection.execute(
        select(ops.c.seq_id, func.length(ops.c.payload)).where(
            ops.c.scope == run_id, ops.c.payload.is_not(None)
        )
    )
    return {row[0]: row[1] for row in rows}


def list_snapshots(connection: Connection, run_id: str) -> list[Snapshot]:
    """Newest first."""
    rows = connection.execute(
        select(snapshots).where(snapshots.c.run_id == run_id).order_by(snapshots.c.seq_id.desc())
    )
    return [Snapshot(**row._mapping) for row in rows]


def snapshot_files(connection: Connection, base_model: str) -> set[str]:
    return set(
        connection.execute(
            select(snapshots.c.file)
            .join(runs, runs.c.run_id == snapshots.c.run_id)
            .where(runs.c.base_model == base_model)
        ).scalars()
    )


def put_snapshot(connection: Connection, snapshot: Snapshot) -> None:
    drop_snapshots(connection, snapshot.run_id, [snapshot.seq_id])
    connection.execute(
        insert(snapshots).values(
            run_id=snapshot.run_id,
            seq_id=snapshot.seq_id,
            num_steps=snapshot.num_steps,
            created_at=snapshot.created_at,
            size_bytes=snapshot.size_bytes,
            file=snapshot.file,
            digest=snapshot.digest,
            notes=dict(snapshot.notes),
        )
    )


def drop_snapshots(connection: Connection, run_id: str, seq_ids: Sequence[int]) -> None:
    connection.execute(
        delete(snapshots).where(snapshots.c.run_id == run_id, snapshots.c.seq_id.in_(seq_ids))
    )


def drop_payloads(connection: Connection, run_id: str, up_to: int) -> None:
    """Those of settled ops up to a place that a kept snapshot covers."""
    connection.execute(
        update(ops)
        .where(
            ops.c.scope == run_id,
            ops.c.seq_id <= up_to,
            ops.c.settled_at.is_not(None),
            ops.c.payload.is_not(None),
        )
        .values(payload=None)
    )


def spent_run(connection: Connection, before: datetime) -> str | None:
    """A released run whose session ended before that time and whose history is still there."""
    release = (ops.c.seq_id == RELEASE_SEQ_ID) & ops.c.payload.is_not(None)
    return connection.execute(
        select(ops.c.scope)
        .join(runs, runs.c.run_id == ops.c.scope)
        .join(sessions, sessions.c.session_id == runs.c.session_id)
        .where(release, ops.c.settled_at.is_not(None), sessions.c.ended_at < before)
        .limit(1)
    ).scalar()


def drop_history(connection: Connection, run_id: str) -> list[str]:
    """What the run was fed, what it answered, and its snapshots; the files that these named."""
    connection.execute(
        update(ops)
        .where(ops.c.scope == run_id, ops.c.settled_at.is_not(None))
        .values(payload=None, outcome=None)
    )
    is_its = snapshots.c.run_id == run_id
    files = list(connection.execute(select(snapshots.c.file).where(is_its)).scalars())
    connection.execute(delete(snapshots).where(is_its))
    return files


def drop_results(connection: Connection, before: datetime, limit: int) -> int:
    """Logprobs and metrics of training ops settled before that time; how many went. What a replay
    compares, and what is shown of them, stays."""
    old = select(ops.c.row).where(HAS_TRAINING_RESULT, ops.c.settled_at < before).limit(limit)
    return connection.execute(update(ops).where(ops.c.row.in_(old)).values(outcome=None)).rowcount


def current_epoch(connection: Connection, base_model: str) -> int | None:
    return connection.execute(
        select(leases.c.epoch).where(leases.c.base_model == base_model)
    ).scalar()


def _logged(row: Any) -> LoggedOp:
    execution = None if row.execution is None else Execution(**row.execution)
    return LoggedOp(
        row.seq_id,
        row.kind,
        row.appended_at,
        row.settled_at,
        row.is_failed,
        execution,
        row.has_payload,
    )
