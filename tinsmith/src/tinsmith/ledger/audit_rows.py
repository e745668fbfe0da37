"""Rows of the audit log. Functions of an open transaction."""

from __future__ import annotations

from dataclasses import asdict
from datetime import datetime

from sqlalchemy import Connection, delete, insert, select

from tinsmith.domain.audit import AuditEntry
from tinsmith.ledger.schema import audit


def insert_entry(connection: Connection, entry: AuditEntry) -> None:
    connection.execute(insert(audit).values(**asdict(entry)))


def list_entries(
    connection: Connection,
    *,
    project: str | None,
    action_prefix: str,
    since: datetime | None,
    until: datetime | None,
    limit: int,
) -> list[AuditEntry]:
    statement = select(audit).where(audit.c.action.startswith(action_prefix, autoescape=True))
    if project is not None:
        statement = statement.where(audit.c.project == project)
    if since is not None:
        statement = statement.where(audit.c.at >= since)
    if until is not None:
        statement = statement.where(audit.c.at < until)
    rows = connection.execute(statement.order_by(audit.c.row.desc()).limit(limit)).all()
    return [
        AuditEntry(row.at, row.project, row.key_id, row.address, row.action, row.object, row.status)
        for row in reversed(rows)
    ]


def drop_before(connection: Connection, moment: datetime, limit: int) -> int:
    old = select(audit.c.row).where(audit.c.at < moment).order_by(audit.c.row).limit(limit)
    return connection.execute(delete(audit).where(audit.c.row.in_(old))).rowcount
