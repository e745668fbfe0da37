"""Rows of sessions. Functions of an open transaction."""

from __future__ import annotations

import uuid
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from sqlalchemy import Connection, Row, bindparam, exists, insert, select, update

from tinsmith.domain.records import Session
from tinsmith.ledger.schema import runs, sessions

# Every request looks it up; building a statement costs more than executing it.
_FIND_SESSION = select(sessions).where(sessions.c.session_id == bindparam("wanted"))


def create_session(
    connection: Connection,
    owner: str,
    idempotency_key: str | None,
    tags: Sequence[str],
    user_metadata: Mapping[str, str],
    display_name: str | None,
    project_id: str | None,
) -> Session:
    if idempotency_key is not None:
        same = (sessions.c.owner == owner) & (sessions.c.idempotency_key == idempotency_key)
        found = connection.execute(select(sessions).where(same)).one_or_none()
        if found is not None:
            return session_of(found)
    now = datetime.now(UTC)
    session_id = str(uuid.uuid4())
    connection.execute(
        insert(sessions).values(
            session_id=session_id,
            owner=owner,
            idempotency_key=idempotency_key,
            created_at=now,
            last_heard_at=now,
            display_name=display_name,
            tags=list(tags),
            user_metadata=dict(user_metadata),
            project_id=project_id,
        )
    )
    return Session(
        session_id,
        owner,
        now,
        now,
        None,
        dict(user_metadata),
        display_name,
        tuple(tags),
        project_id,
    )


def touch_session(connection: Connection, session_id: str) -> bool:
    alive = (sessions.c.session_id == session_id) & sessions.c.ended_at.is_(None)
    now = datetime.now(UTC)
    return connection.execute(update(sessions).where(alive).values(last_heard_at=now)).rowcount > 0


def end_session(connection: Connection, session_id: str, reason: str) -> None:
    alive = (sessions.c.session_id == session_id) & sessions.c.ended_at.is_(None)
    connection.execute(
        update(sessions).where(alive).values(ended_at=datetime.now(UTC), end_reason=reason)
    )


def set_project(connection: Connection, session_id: str, project_id: str) -> bool:
    is_it = sessions.c.session_id == session_id
    return (
        connection.execute(update(sessions).where(is_it).values(project_id=project_id)).rowcount > 0
    )


def find_session(connection: Connection, session_id: str) -> Session | None:
    row = connection.execute(_FIND_SESSION, {"wanted": session_id}).one_or_none()
    return None if row is None else session_of(row)


def list_sessions(connection: Connection, owner: str, limit: int, offset: int) -> list[Session]:
    rows = connection.execute(
        select(sessions)
        .where(sessions.c.owner == owner)
        .order_by(sessions.c.created_at.desc(), sessions.c.session_id)
        .limit(limit)
        .offset(offset)
    )
    return [session_of(row) for row in rows]


def silent_sessions(connection: Connection, before: datetime) -> list[Session]:
    is_busy = exists().where(
        runs.c.session_id == sessions.c.session_id, runs.c.last_request_at >= before
    )
    rows = connection.execute(
        select(sessions).where(
            sessions.c.ended_at.is_(None), sessions.c.last_heard_at < before, ~is_busy
        )
    )
    return [session_of(row) for row in rows]


def session_of(row: Row[Any]) -> Session:
    return Session(
        session_id=row.session_id,
        owner=row.owner,
        created_at=row.created_at,
        last_heard_at=row.last_heard_at,
        ended_at=row.ended_at,
        user_metadata=row.user_metadata,
        display_name=row.display_name,
        tags=tuple(row.tags),
        project_id=row.project_id,
        end_reason=row.end_reason,
    )
