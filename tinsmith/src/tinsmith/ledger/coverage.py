"""How far a run has come, and how far back its log reaches."""

from __future__ import annotations

from collections.abc import Sequence

from tinsmith.domain.errors import NotFoundError
from tinsmith.domain.records import Run, Snapshot
from tinsmith.ledger.entries import LoggedOp
from tinsmith.ledger.ledger import Ledger


def find_run(ledger: Ledger, run_id: str) -> Run:
    """Whoever it belongs to. Raises NotFoundError."""
    run = ledger.run(run_id)
    if run is None:
        raise NotFoundError(
            f"there is no run {run_id!r}; `tinsmith runs list` names those there are"
        )
    return run


def steps_of(history: Sequence[LoggedOp]) -> list[int]:
    """seq_ids of the optimizer steps that were taken; the first of them is step 1."""
    return [op.seq_id for op in history if op.kind == "optim_step" and op.is_failed is False]


def first_step(history: Sequence[LoggedOp], snapshots: Sequence[Snapshot]) -> int | None:
    """The earliest step that the run can still be taken back to; None if there is none."""
    if history and history[0].kind == "create_run" and history[0].has_payload:
        return 0
    return min((one.num_steps for one in snapshots), default=None)
