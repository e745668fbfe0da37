"""What enters the log of ops. Functions of an open transaction."""

from __future__ import annotations

import hashlib
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
from tinsmith.domain.outcomes import Failed
from tinsmith.domain.records import Run
from tinsmith.ledger import run_rows, session_rows
from tinsmith.ledger.codec import encode
from tinsmith.ledger.entries import Backlog, RunEndedError, logged_kind
from tinsmith.ledger.schema import RELEASE_SEQ_ID, ops, runs, sessions

MAX_SAMPLE_SEQ_ID = 2**63 - 1

# What every request goes through is built once: building costs more than executing.
IS_PLACE = (ops.c.scope == bindparam("at_scope")) & (ops.c.seq_id == bindparam("at_seq_id"))
_FIND_PLACE = select(ops.c.kind, ops.c.digest).where(IS_PLACE)
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
    session = session_rows.find_session(connection, run.session_id)
    if session is None:
        raise NotFoundError(f"there is no session {run.session_id!r}")
    if session.ended_at is not None:
        raise InvalidInputError(f"session {run.session_id} has ended; create the run in a new one")
    _check_backlog(connection, entry.owner, backlog)
    run_rows.insert_run(connection, run)
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
    run = run_rows.find_run(connection, run_id)
    if run is None or run.is_ended:
        return None
    _insert(
        connection,
        Entry.of(run_id, RELEASE_SEQ_ID, Release(), owner=run.owner, base_model=run.base_model),
    )
    run_rows.update_run(connection, run_id, is_ended=True)
    return run.base_model


def end_session(connection: Connection, session_id: str, reason: str) -> list[str]:
    session_rows.end_session(connection, session_id, reason)
    released = (
        release_run(connection, run_id) for run_id in run_rows.run_ids(connection, session_id)
    )
    return sorted({base_model for base_model in released if base_model is not None})


def _is_repeat(connection: Connection, entry: Entry) -> bool:
    """Whether the place holds this very op; SequenceReusedError if it holds another."""
    first = connection.execute(_FIND_PLACE, at_place(entry.scope, entry.seq_id)).one_or_none()
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


def at_place(scope: str, seq_id: int) -> dict[str, Any]:
    """What IS_PLACE binds."""
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
        "forked": "only holds the checkpoint of a fork",
    }.get(reason, "was released when its session ended")
    return f"training run {run_id} {ended}"
