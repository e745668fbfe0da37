"""Runs that only hold a checkpoint which was copied, imported or forked from another run."""

from __future__ import annotations

import uuid
from datetime import UTC, datetime

from tinsmith.domain.addresses import CheckpointAddress, CheckpointKind, run_id_of
from tinsmith.domain.ops import LoraConfig
from tinsmith.domain.records import Run

COPIED, IMPORTED, FORKED = "copied", "imported", "forked"
"""How such a run came to be: the reason for which its session has ended."""


def ended_run(
    owner: str, base_model: str, lora: LoraConfig, kind: CheckpointKind, name: str
) -> tuple[Run, CheckpointAddress]:
    """A run under a new id that takes no work, and its checkpoint's address."""
    session_id = str(uuid.uuid4())
    now = datetime.now(UTC)
    run = Run(
        run_id=run_id_of(session_id, 0),
        session_id=session_id,
        owner=owner,
        base_model=base_model,
        lora=lora,
        created_at=now,
        last_request_at=now,
        is_ended=True,
    )
    return run, CheckpointAddress(run.run_id, kind, name)
