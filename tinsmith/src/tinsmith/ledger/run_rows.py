"""Rows of runs and samplers. Functions of an open transaction."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from sqlalchemy import Connection, Row, bindparam, func, insert, select, true, update

from tinsmith.domain.addresses import CheckpointAddress
from tinsmith.domain.errors import SequenceReusedError
from tinsmith.domain.ops import LoraConfig
from tinsmith.domain.records import Run, Sampler
from tinsmith.ledger.schema import runs, samplers, sessions

# Every request looks these up; building a statement costs more than executing it.
_FIND_RUN = select(runs).where(runs.c.run_id == bindparam("wanted"))
_FIND_SAMPLER = select(samplers).where(samplers.c.sampler_id == bindparam("wanted"))


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
            **lora_columns(run.lora),
        )
    )


def update_run(connection: Connection, run_id: str, **values: Any) -> None:
    connection.execute(update(runs).where(runs.c.run_id == run_id).values(**values))


def find_run(connection: Connection, run_id: str) -> Run | None:
    row = connection.execute(_FIND_RUN, {"wanted": run_id}).one_or_none()
    return None if row is None else _run(row)


def list_runs(
    connection: Connection,
    owner: str | None,
    limit: int,
    offset: int,
    project_id: str | None = None,
) -> tuple[list[Run], int]:
    is_theirs = true() if owner is None else runs.c.owner == owner
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


def _run(row: Row[Any]) -> Run:
    return Run(
        run_id=row.run_id,
        session_id=row.session_id,
        owner=row.owner,
        base_model=row.base_model,
        lora=lora_of(row),
        created_at=row.created_at,
        last_request_at=row.last_request_at,
        user_metadata=row.user_metadata,
        is_corrupted=row.is_corrupted,
        is_ended=row.is_ended,
        inexact=row.inexact,
    )


def lora_of(row: Row[Any]) -> LoraConfig:
    return LoraConfig(row.rank, row.seed, row.train_attn, row.train_mlp, row.train_unembed)


def lora_columns(lora: LoraConfig) -> dict[str, Any]:
    return {
        "rank": lora.rank,
        "seed": lora.seed,
        "train_attn": lora.train_attn,
        "train_mlp": lora.train_mlp,
        "train_unembed": lora.train_unembed,
    }
