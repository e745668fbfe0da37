"""Rows of sessions, runs, samplers and checkpoints. Functions of an open transaction."""

from __future__ import annotations

import uuid
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from sqlalchemy import (
    ColumnElement,
    Connection,
    Row,
    and_,
    bindparam,
    delete,
    exists,
    func,
    insert,
    or_,
    select,
    update,
)

from tinsmith.domain.addresses import CheckpointAddress, CheckpointKind
from tinsmith.domain.errors import SequenceReusedError
from tinsmith.domain.ops import LoraConfig
from tinsmith.domain.records import Checkpoint, Run, Sampler, Session, StorageUse
from tinsmith.ledger.schema import checkpoints, runs, samplers, sessions

# Every request looks these up; building a statement costs more than executing it.
_FIND_SESSION = select(sessions).where(sessions.c.session_id == bindparam("wanted"))
_FIND_RUN = select(runs).where(runs.c.run_id == bindparam("wanted"))
_FIND_SAMPLER = select(samplers).where(samplers.c.sampler_id == bindparam("wanted"))


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


def insert_run(connection: Connection, run: Run) -> None:
    connection.execute(
        insert(runs).values(
            run_id=run.run_id,
            session_id=run.session_id,
            owner=run.owner,
            base_model=run.base_model,
            created_at=run.created_at,
            last_request_at=run.last_request_at,
            last_seq_id=0,
            is_corrupted=run.is_corrupted,
            is_ended=run.is_ended,
            user_metadata=dict(run.user_metadata),
            **_lora_columns(run.lora),
        )
    )


def update_run(connection: Connection, run_id: str, **values: Any) -> None:
    connection.execute(update(runs).where(runs.c.run_id == run_id).values(**values))


def find_run(connection: Connection, run_id: str) -> Run | None:
    row = connection.execute(_FIND_RUN, {"wanted": run_id}).one_or_none()
    return None if row is None else _run(row)


def list_runs(
    connection: Connection, owner: str, limit: int, offset: int, project_id: str | None = None
) -> tuple[list[Run], int]:
    is_theirs = runs.c.owner == owner
    if project_id is not None:
        is_theirs &= runs.c.session_id.in_(
            select(sessions.c.session_id).where(sessions.c.project_id == project_id)
        )
    rows = connection.execute(
        select(runs)
        .where(is_theirs)
        .order_by(runs.c.last_request_at.desc(), runs.c.run_id)
        .limit(limit)
        .offset(offset)
    ).all()
    total = connection.execute(select(func.count()).select_from(runs).where(is_theirs))
    return [_run(row) for row in rows], total.scalar_one()


def run_ids(connection: Connection, session_id: str) -> list[str]:
    return list(
        connection.execute(
            select(runs.c.run_id)
            .where(runs.c.session_id == session_id)
            .order_by(runs.c.created_at, runs.c.run_id)
        ).scalars()
    )


def create_sampler(connection: Connection, sampler: Sampler) -> Sampler:
    found = find_sampler(connection, sampler.sampler_id)
    if found is None:
        connection.execute(
            insert(samplers).values(
                sampler_id=sampler.sampler_id,
                session_id=sampler.session_id,
                owner=sampler.owner,
                base_model=sampler.base_model,
                checkpoint=None if sampler.checkpoint is None else str(sampler.checkpoint),
                created_at=datetime.now(UTC),
            )
        )
    elif found != sampler:
        scope, _, number = sampler.sampler_id.rpartition(":")
        raise SequenceReusedError(
            scope=scope,
            seq_id=int(number) if number.isdecimal() else 0,
            first=f"sampler of {found.checkpoint or found.base_model}",
            second=f"sampler of {sampler.checkpoint or sampler.base_model}",
        )
    return sampler


def find_sampler(connection: Connection, sampler_id: str) -> Sampler | None:
    row = connection.execute(_FIND_SAMPLER, {"wanted": sampler_id}).one_or_none()
    if row is None:
        return None
    address = None if row.checkpoint is None else CheckpointAddress.parse(row.checkpoint)
    return Sampler(row.sampler_id, row.session_id, row.owner, row.base_model, address)


def sampler_ids(connection: Connection, session_id: str) -> list[str]:
    return list(
        connection.execute(
            select(samplers.c.sampler_id)
            .where(samplers.c.session_id == session_id)
            .order_by(samplers.c.created_at, samplers.c.sampler_id)
        ).scalars()
    )


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
            **_lora_columns(checkpoint.lora),
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


def _run(row: Row[Any]) -> Run:
    return Run(
        run_id=row.run_id,
        session_id=row.session_id,
        owner=row.owner,
        base_model=row.base_model,
        lora=_lora(row),
        created_at=row.created_at,
        last_request_at=row.last_request_at,
        user_metadata=row.user_metadata,
        is_corrupted=row.is_corrupted,
        is_ended=row.is_ended,
    )


def _checkpoint(row: Row[Any]) -> Checkpoint:
    return Checkpoint(
        address=CheckpointAddress.parse(row.address),
        owner=row.owner,
        base_model=row.base_model,
        lora=_lora(row),
        created_at=row.created_at,
        size_bytes=row.size_bytes,
        digest=row.digest,
        expires_at=row.expires_at,
        is_public=row.is_public,
        is_listed=row.is_listed,
        user_metadata=row.user_metadata,
    )


def _lora(row: Row[Any]) -> LoraConfig:
    return LoraConfig(row.rank, row.seed, row.train_attn, row.train_mlp, row.train_unembed)


def _lora_columns(lora: LoraConfig) -> dict[str, Any]:
    return {
        "rank": lora.rank,
        "seed": lora.seed,
        "train_attn": lora.train_attn,
        "train_mlp": lora.train_mlp,
        "train_unembed": lora.train_unembed,
    }
