"""Sessions by what they are like. Functions of an open transaction."""

from __future__ import annotations

from sqlalchemy import Connection, func, select

from tinsmith.domain.records import Session
from tinsmith.domain.session_search import SessionSearch, SessionSummary
from tinsmith.ledger.schema import checkpoints, runs, sessions
from tinsmith.ledger.session_rows import session_of


def search_sessions(
    connection: Connection, owner: str, search: SessionSearch
) -> tuple[list[SessionSummary], bool]:
    """One page, newest first, and whether more follow."""
    query = select(sessions).where(sessions.c.owner == owner)
    if search.after is not None:
        created_at, session_id = search.after.created_at, search.after.session_id
        query = query.where(
            (sessions.c.created_at < created_at)
            | ((sessions.c.created_at == created_at) & (sessions.c.session_id > session_id))
        )
    rows = connection.execute(
        query.order_by(sessions.c.created_at.desc(), sessions.c.session_id),
        execution_options={"yield_per": 200},
    )
    found: list[SessionSummary] = []
    with rows:
        for row in rows:
            session = session_of(row)
            if search.matches(session):
                if len(found) == search.limit:
                    return found, True
                found.append(_summary(connection, session))
    return found, False


def _summary(connection: Connection, session: Session) -> SessionSummary:
    count, size = connection.execute(
        select(func.count(), func.coalesce(func.sum(checkpoints.c.size_bytes), 0))
        .join(runs, runs.c.run_id == checkpoints.c.run_id)
        .where(runs.c.session_id == session.session_id, checkpoints.c.is_listed)
    ).one()
    return SessionSummary(session, count, int(size))
