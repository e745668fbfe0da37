"""The catalogue of checkpoints. Functions of an open transaction."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from sqlalchemy import (
    ColumnElement,
    Connection,
    Row,
    and_,
    delete,
    exists,
    func,
    insert,
    or_,
    select,
    update,
)

from tinsmith.domain.addresses import CheckpointAddress, CheckpointKind
from tinsmith.domain.records import Checkpoint, StorageUse
from tinsmith.ledger.run_rows import lora_columns, lora_of
from tinsmith.ledger.schema import checkpoints, runs, sessions


def put_checkpoint(connection: Connection, checkpoint: Checkpoint) -> None:
    """Replaces the row of an overwritten checkpoint whole."""
    delete_checkpoint(connection, checkpoint.address)
    connection.execute(
        insert(checkpoints).values(
            address=str(checkpoint.address),
            run_id=checkpoint.address.run_id,
            kind=checkpoint.address.kind.value,
            owner=checkpoint.owner,
            base_model=checkpoint.base_model,
            created_at=checkpoint.created_at,
            expires_at=checkpoint.expires_at,
            size_bytes=checkpoint.size_bytes,
            digest=checkpoint.digest,
            is_public=checkpoint.is_public,
            is_listed=checkpoint.is_listed,
            user_metadata=dict(checkpoint.user_metadata),
            **lora_columns(checkpoint.lora),
        )
    )


def find_checkpoint(connection: Connection, address: CheckpointAddress) -> Checkpoint | None:
    row = connection.execute(
        select(checkpoints).where(checkpoints.c.address == str(address))
    ).one_or_none()
    return None if row is None else _checkpoint(row)


def list_checkpoints(
    connection: Connection,
    *,
    owner: str | None,
    run_id: str | None,
    kind: CheckpointKind | None,
    limit: int | None,
    offset: int,
) -> tuple[list[Checkpoint], int]:
    wanted = [checkpoints.c.is_listed, _is_kept(datetime.now(UTC))]
    if owner is not None:
        wanted.append(checkpoints.c.owner == owner)
    if run_id is not None:
        wanted.append(checkpoints.c.run_id == run_id)
    if kind is not None:
        wanted.append(checkpoints.c.kind == kind.value)
    rows = connection.execute(
        select(checkpoints)
        .where(*wanted)
        .order_by(checkpoints.c.created_at.desc(), checkpoints.c.address)
        .limit(limit)
        .offset(offset)
    ).all()
    total = connection.execute(select(func.count()).select_from(checkpoints).where(*wanted))
    return [_checkpoint(row) for row in rows], total.scalar_one()


def storage_use(connection: Connection, owner: str, project_id: str | None) -> list[StorageUse]:
    wanted = [checkpoints.c.owner == owner, _is_kept(datetime.now(UTC))]
    if project_id is not None:
        wanted.append(sessions.c.project_id == project_id)
    rows = connection.execute(
        select(sessions.c.project_id, func.count(), func.sum(checkpoints.c.size_bytes))
        .select_from(checkpoints)
        .join(runs, runs.c.run_id == checkpoints.c.run_id)
        .join(sessions, sessions.c.session_id == runs.c.session_id)
        .where(*wanted)
        .group_by(sessions.c.project_id)
        .order_by(sessions.c.project_id)
    )
    return [StorageUse(project, int(count), int(size)) for project, count, size in rows]


def update_checkpoint(connection: Connection, address: CheckpointAddress, **values: Any) -> bool:
    is_it = checkpoints.c.address == str(address)
    return connection.execute(update(checkpoints).where(is_it).values(**values)).rowcount > 0


def delete_checkpoint(connection: Connection, address: CheckpointAddress) -> bool:
    is_it = checkpoints.c.address == str(address)
    return connection.execute(delete(checkpoints).where(is_it)).rowcount > 0


def expired_checkpoints(connection: Connection, now: datetime) -> list[Checkpoint]:
    session_is_over = exists().where(
        runs.c.run_id == checkpoints.c.run_id,
        runs.c.session_id == sessions.c.session_id,
        sessions.c.ended_at.is_not(None),
    )
    rows = connection.execute(
        select(checkpoints).where(
            or_(~_is_kept(now), and_(~checkpoints.c.is_listed, session_is_over))
        )
    )
    return [_checkpoint(row) for row in rows]


def _is_kept(now: datetime) -> ColumnElement[bool]:
    return or_(checkpoints.c.expires_at.is_(None), checkpoints.c.expires_at > now)


def _checkpoint(row: Row[Any]) -> Checkpoint:
    return Checkpoint(
        address=CheckpointAddress.parse(row.address),
        owner=row.owner,
        base_model=row.base_model,
        lora=lora_of(row),
        created_at=row.created_at,
        size_bytes=row.size_bytes,
        digest=row.digest,
        expires_at=row.expires_at,
        is_public=row.is_public,
        is_listed=row.is_listed,
        user_metadata=row.user_metadata,
    )
