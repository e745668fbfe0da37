"""Checkpoints that no run here has made: copies and imports. Functions of an open transaction."""

from __future__ import annotations

from datetime import UTC, datetime

from sqlalchemy import Connection, insert, select

from tinsmith.domain.records import Checkpoint, Run
from tinsmith.ledger import checkpoint_rows, run_rows
from tinsmith.ledger.schema import checkpoints, sessions


def adopt(
    connection: Connection,
    run: Run,
    checkpoint: Checkpoint,
    how: str,
    project_id: str | None,
    idempotency_key: str | None,
) -> None:
    now = datetime.now(UTC)
    connection.execute(
        insert(sessions).values(
            session_id=run.session_id,
            owner=run.owner,
            idempotency_key=idempotency_key,
            created_at=now,
            last_heard_at=now,
            ended_at=now,
            end_reason=how,
            display_name=f"{how} {checkpoint.address.name}",
            tags=[],
            user_metadata={},
            project_id=project_id,
        )
    )
    run_rows.insert_run(connection, run)
    checkpoint_rows.put_checkpoint(connection, checkpoint)


def adopted_before(connection: Connection, owner: str, idempotency_key: str) -> str | None:
    """The address that an earlier `adopt` with this key made."""
    is_same = (sessions.c.owner == owner) & (sessions.c.idempotency_key == idempotency_key)
    session_id = connection.execute(select(sessions.c.session_id).where(is_same)).scalar()
    if session_id is None:
        return None
    of_run = checkpoints.c.run_id.in_(run_rows.run_ids(connection, session_id))
    return connection.execute(select(checkpoints.c.address).where(of_run)).scalar()
