"""Rows of projects and of their keys. Functions of an open transaction."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from sqlalchemy import Connection, Row, bindparam, exists, insert, select, update

from tinsmith.domain.projects import ApiKey, Project, Role
from tinsmith.ledger.schema import api_keys, projects

# Looked up for many requests; building a statement costs more than executing it.
_FIND_PROJECT = select(projects).where(projects.c.name == bindparam("wanted"))
_FIND_KEY = select(api_keys).where(api_keys.c.key_id == bindparam("wanted"))


def create_project(connection: Connection, name: str) -> Project:
    found = find_project(connection, name)
    if found is not None:
        return found
    made = Project(name, datetime.now(UTC))
    connection.execute(
        insert(projects).values(
            name=name, created_at=made.created_at, weight=made.weight, quotas={}
        )
    )
    return made


def change_project(
    connection: Connection,
    name: str,
    weight: float | None,
    quotas: Mapping[str, float | None],
) -> Project:
    known = create_project(connection, name)
    merged = {**known.quotas, **quotas}
    changed = Project(
        name,
        known.created_at,
        known.weight if weight is None else weight,
        {quota: value for quota, value in merged.items() if value is not None},
    )
    connection.execute(
        update(projects)
        .where(projects.c.name == name)
        .values(weight=changed.weight, quotas=dict(changed.quotas))
    )
    return changed


def find_project(connection: Connection, name: str) -> Project | None:
    row = connection.execute(_FIND_PROJECT, {"wanted": name}).one_or_none()
    return None if row is None else _project(row)


def list_projects(connection: Connection) -> list[Project]:
    return [_project(row) for row in connection.execute(select(projects).order_by(projects.c.name))]


def create_key(connection: Connection, key: ApiKey) -> None:
    create_project(connection, key.project)
    connection.execute(
        insert(api_keys).values(
            key_id=key.key_id,
            project=key.project,
            role=key.role.value,
            label=key.label,
            digest=key.digest,
            created_at=key.created_at,
            expires_at=key.expires_at,
        )
    )


def find_key(connection: Connection, key_id: str) -> ApiKey | None:
    row = connection.execute(_FIND_KEY, {"wanted": key_id}).one_or_none()
    return None if row is None else _key(row)


def list_keys(connection: Connection, project: str | None) -> list[ApiKey]:
    statement = select(api_keys).order_by(api_keys.c.created_at, api_keys.c.key_id)
    if project is not None:
        statement = statement.where(api_keys.c.project == project)
    return [_key(row) for row in connection.execute(statement)]


def has_keys(connection: Connection) -> bool:
    return bool(connection.execute(select(exists().select_from(api_keys))).scalar_one())


def revoke_key(connection: Connection, key_id: str) -> bool:
    is_it = (api_keys.c.key_id == key_id) & api_keys.c.revoked_at.is_(None)
    values = {"revoked_at": datetime.now(UTC)}
    return connection.execute(update(api_keys).where(is_it).values(values)).rowcount > 0


def touch_key(connection: Connection, key_id: str, now: datetime) -> None:
    connection.execute(update(api_keys).where(api_keys.c.key_id == key_id).values(last_used_at=now))


def _project(row: Row[Any]) -> Project:
    return Project(row.name, row.created_at, row.weight, row.quotas)


def _key(row: Row[Any]) -> ApiKey:
    return ApiKey(
        key_id=row.key_id,
        digest=row.digest,
        project=row.project,
        role=Role(row.role),
        label=row.label,
        created_at=row.created_at,
        expires_at=row.expires_at,
        last_used_at=row.last_used_at,
        revoked_at=row.revoked_at,
    )
