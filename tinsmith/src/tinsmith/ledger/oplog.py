"""Rows of the log of ops. Functions of an open transaction."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from sqlalchemy import Connection, bindparam, func, insert, select, update

from tinsmith.domain.errors import (
    BusyError,
    InvalidInputError,
    NotFoundError,
    SequenceReusedError,
)
from tinsmith.domain.ops import Op, Release
from tinsmith.domain.outcomes import Failed, Outcome
from tinsmith.domain.records import Run
from tinsmith.ledger import catalogue
from tinsmith.ledger.codec import decode, encode
from tinsmith.ledger.entries import (
    Backlog,
    FailedOp,
    GradientWindow,
    OpRecord,
    OpStatus,
    RunEndedError,
    logged_kind,
)
from tinsmith.ledger.schema import RELEASE_SEQ_ID, ops, runs, sessions

MAX_SAMPLE_SEQ_ID = 2**63 - 1
_IDS_PER_QUERY = 200

# What every request goes through is built once: building costs more than executing.
_IS_PLACE = (ops.c.scope == bindparam("at_scope")) & (ops.c.seq_id == bindparam("at_seq_id"))
_FIND_PLACE = select(ops.c.kind, ops.c.digest).where(_IS_PLACE)
_STATUS = select(ops.c.owner, ops.c.kind, ops.c.settled_at, ops.c.outcome).where(_IS_PLACE)
_OUTCOMES = select(ops.c.seq_id, ops.c.outcome).where(
    ops.c.scope == bindparam("at_scope"),
    ops.c.seq_id.in_(bindparam("at_seq_ids", expanding=True)),
    ops.c.outcome.is_not(None),
)
_INSERT = insert(ops)
_WAITING = select(func.count()).select_from(ops).where(ops.c.settled_at.is_(None))
_COUNT_WAITING = select(
    _WAITING.scalar_subquery().label("in_all"),
    _WAITING.where(ops.c.owner == bindparam("by_owner")).scalar_subquery().label("theirs"),
)
_IS_RUN = runs.c.run_id == bindparam("of_run")
_RUN_STATE = select(runs.c.last_seq_id, runs.c.is_ended).where(_IS_RUN)
_ADVANCE_RUN = (
    update(runs)
    .where(_IS_RUN)
    .values(last_seq_id=bindparam("to_seq_id"), last_request_at=bindparam("at"))
)


@dataclass(frozen=True, slots=True)
class Entry:
    """An op, encoded outside of any transaction."""

    scope: str
    seq_id: int
    kind: str
    owner: str
    base_model: str
    payload: bytes | None
    digest: bytes
    """Of the payload; empty for an op that was refused at intake."""
    outcome: bytes | None = None

    @classmethod
    def of(cls, scope: str, seq_id: int, op: Op, *, owner: str, base_model: str) -> Entry:
        payload = encode(op)
        digest = hashlib.sha256(payload).digest()
        return cls(scope, seq_id, logged_kind(op), owner, base_model, payload, digest)

    @classmethod
    def failed(
        cls, scope: str, seq_id: int, kind: str, failure: Failed, *, owner: str, base_model: str
    ) -> Entry:
        return cls(scope, seq_id, kind, owner, base_model, None, b"", encode(failure))

    @property
    def request_id(self) -> str:
        return f"{self.scope}#{self.seq_id}"


def parse_request_id(request_id: str) -> tuple[str, int] | None:
    """(scope, seq_id), or None for what is no request_id."""
    scope, separator, number = request_id.rpartition("#")
    if not separator or not (number.isascii() and number.isdecimal()) or len(number) > 19:
        return None
    seq_id = int(number)
    return (scope, seq_id) if seq_id <= MAX_SAMPLE_SEQ_ID else None


def create_run(connection: Connection, run: Run, entry: Entry, backlog: Backlog | None) -> str:
    if _is_repeat(connection, entry):
        return entry.request_id
    session = catalogue.find_session(connection, run.session_id)
    if session is None:
        raise NotFoundError(f"there is no session {run.session_id!r}")
    if session.ended_at is not None:
        raise InvalidInputError(f"session {run.session_id} has ended; create the run in a new one")
    _check_backlog(connection, entry.owner, backlog)
    catalogue.insert_run(connection, run)
    _insert(connection, entry)
    return entry.request_id


def append_to_run(connection: Connection, entry: Entry, backlog: Backlog | None) -> str:
    if not 1 <= entry.seq_id < RELEASE_SEQ_ID:
        raise InvalidInputError(
            f"seq_id {entry.seq_id} of {entry.scope} is out of range: 1 to {RELEASE_SEQ_ID - 1}"
        )
    run = connection.execute(_RUN_STATE, {"of_run": entry.scope}).one_or_none()
    if run is None:
        raise NotFoundError(f"there is no training run {entry.scope!r}")
    if entry.seq_id <= run.last_seq_id:
        if _is_repeat(connection, entry):
            return entry.request_id
        raise InvalidInputError(
            f"seq_id {entry.seq_id} of {entry.scope} comes too late: {run.last_seq_id} is logged "
            f"already, and ops run in order of arrival. Send it under {run.last_seq_id + 1} or more"
        )
    if entry.outcome is None:
        if run.is_ended:
            raise RunEndedError(_why_ended(connection, entry.scope))
        _check_backlog(connection, entry.owner, backlog)
    _insert(connection, entry)
    connection.execute(
        _ADVANCE_RUN, {"of_run": entry.scope, "to_seq_id": entry.seq_id, "at": datetime.now(UTC)}
    )
    return entry.request_id


def append_sample(connection: Connection, entry: Entry, backlog: Backlog | None) -> str:
    if not 0 <= entry.seq_id <= MAX_SAMPLE_SEQ_ID:
        raise InvalidInputError(
            f"seq_id {entry.seq_id} of {entry.scope} is out of range: 0 to {MAX_SAMPLE_SEQ_ID}"
        )
    if not _is_repeat(connection, entry):
        _check_backlog(connection, entry.owner, backlog)
        _insert(connection, entry)
    return entry.request_id


def release_run(connection: Connection, run_id: str) -> str | None:
    """The base model whose engine has something to release; None if there is nothing to do."""
    run = catalogue.find_run(connection, run_id)
    if run is None or run.is_ended:
        return None
    _insert(
        connection,
        Entry.of(run_id, RELEASE_SEQ_ID, Release(), owner=run.owner, base_model=run.base_model),
    )
    catalogue.update_run(connection, run_id, is_ended=True)
    return run.base_model


def end_session(connection: Connection, session_id: str, reason: str) -> list[str]:
    catalogue.end_session(connection, session_id, reason)
    released = (
        release_run(connection, run_id) for run_id in catalogue.run_ids(connection, session_id)
    )
    return sorted({base_model for base_model in released if base_model is not None})


def pending(
    connection: Connection, base_model: str, after: int, max_bytes: int | None
) -> list[OpRecord]:
    rows = connection.execute(
        select(
            ops.c.row,
            ops.c.scope,
            ops.c.seq_id,
            ops.c.owner,
            ops.c.appended_at,
            ops.c.payload,
        )
        .where(ops.c.base_model == base_model, ops.c.settled_at.is_(None), ops.c.row > after)
        .order_by(ops.c.row)
    )
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
    is_earlier = (ops.c.scope == run_id) & (ops.c.seq_id < seq_id)
    begins = ops.c.kind.in_(["create_run", "create_run_from_state", "optim_step"]) | (
        (ops.c.kind == "load_state") & ops.c.is_failed.is_(False)
    )
    # Ordered and limited, so that the index is read backwards for a few rows, not all of them.
    start = connection.execute(
        select(ops.c.seq_id).where(is_earlier, begins).order_by(ops.c.seq_id.desc()).limit(1)
    ).scalar()
    start = -1 if start is None else start
    rows = connection.execute(
        select(ops.c.seq_id, ops.c.outcome)
        .where(
            is_earlier,
            ops.c.seq_id > start,
            ops.c.kind == "forward_backward",
            ops.c.is_failed,
        )
        .order_by(ops.c.seq_id)
    )
    failed = tuple(FailedOp(row.seq_id, decode(row.outcome).message) for row in rows)
    return GradientWindow(start, failed)


def last_seq_id(connection: Connection, run_id: str) -> int | None:
    return connection.execute(select(runs.c.last_seq_id).where(runs.c.run_id == run_id)).scalar()


def status(connection: Connection, request_id: str) -> OpStatus | None:
    place = parse_request_id(request_id)
    if place is None:
        return None
    row = connection.execute(_STATUS, _at(*place)).one_or_none()
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


def _is_repeat(connection: Connection, entry: Entry) -> bool:
    """Whether the place holds this very op; SequenceReusedError if it holds another."""
    first = connection.execute(_FIND_PLACE, _at(entry.scope, entry.seq_id)).one_or_none()
    if first is None:
        return False
    # What was refused at intake has no digest to compare: its kind decides.
    is_same = first.kind == entry.kind and (
        entry.outcome is not None or first.digest == entry.digest
    )
    if not is_same:
        raise SequenceReusedError(
            scope=entry.scope, seq_id=entry.seq_id, first=first.kind, second=entry.kind
        )
    return True


def _check_backlog(connection: Connection, owner: str, backlog: Backlog | None) -> None:
    if backlog is None:
        return
    waiting = connection.execute(_COUNT_WAITING, {"by_owner": owner}).one()
    if waiting.theirs >= backlog.per_owner:
        raise BusyError(
            f"{waiting.theirs} of your requests are waiting already and {backlog.per_owner} may; "
            "repeat this one when some are done"
        )
    if waiting.in_all >= backlog.in_all:
        raise BusyError(
            f"{waiting.in_all} requests are waiting already and {backlog.in_all} may; "
            "repeat this one in a while"
        )


def _insert(connection: Connection, entry: Entry) -> None:
    now = datetime.now(UTC)
    is_settled = entry.outcome is not None
    connection.execute(
        _INSERT,
        {
            "scope": entry.scope,
            "seq_id": entry.seq_id,
            "owner": entry.owner,
            "base_model": entry.base_model,
            "kind": entry.kind,
            "digest": entry.digest,
            "appended_at": now,
            "settled_at": now if is_settled else None,
            "is_failed": True if is_settled else None,
            "payload": entry.payload,
            "outcome": entry.outcome,
        },
    )


def _at(scope: str, seq_id: int) -> dict[str, Any]:
    return {"at_scope": scope, "at_seq_id": seq_id}


def _why_ended(connection: Connection, run_id: str) -> str:
    creation_failed = connection.execute(
        select(ops.c.is_failed).where(ops.c.scope == run_id, ops.c.seq_id == 0)
    ).scalar()
    if creation_failed:
        return f"training run {run_id} could not be created; its creation's outcome says why"
    reason = connection.execute(
        select(sessions.c.end_reason)
        .join(runs, runs.c.session_id == sessions.c.session_id)
        .where(runs.c.run_id == run_id)
    ).scalar()
    ended = {
        None: "was released",
        "silent": "was released after its client had not been heard of for too long",
        "copied": "only holds a copied checkpoint",
        "imported": "only holds an imported checkpoint",
    }.get(reason, "was released when its session ended")
    return f"training run {run_id} {ended}"
