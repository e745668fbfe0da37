"""What goes into the log and comes out of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from tinsmith.domain.errors import ServiceError, UserError
from tinsmith.domain.ops import ForwardBackward, Op, kind_of
from tinsmith.domain.outcomes import Outcome
from tinsmith.domain.records import Checkpoint, Snapshot


class LeaseLostError(ServiceError):
    """Another engine has taken over this base model; nothing was written."""


class RunEndedError(UserError):
    """The run's session is over: it takes no more ops."""


@dataclass(frozen=True, slots=True)
class Backlog:
    """How many unsettled ops may wait before an append is refused with BusyError."""

    in_all: int
    per_owner: int


@dataclass(frozen=True, slots=True)
class OpRecord:
    """An op that waits to be executed."""

    row: int
    """Grows in order of arrival."""
    request_id: str
    scope: str
    """The run's or the sampler's id."""
    seq_id: int
    owner: str
    op: Op
    appended_at: datetime


@dataclass(frozen=True, slots=True)
class OpStatus:
    """An op seen from outside."""

    owner: str
    kind: str
    outcome: Outcome | None
    is_gone: bool = False
    """It was settled, but the result is kept no longer."""


@dataclass(frozen=True, slots=True)
class Execution:
    """How an op of a run was executed: what a replay has to repeat, and what to show of it."""

    engine_s: float
    """The engine's time that it took, without what others got in between."""
    settings: Mapping[str, Any]
    """What decides about rounding; JSON."""
    metrics: Mapping[str, float]
    """Those of the outcome; they outlive it."""
    digest: str = ""
    """SHA-256 of the encoded outcome. The ledger fills it in."""


@dataclass(frozen=True, slots=True)
class LoggedOp:
    """An op of a run as the log has it."""

    seq_id: int
    kind: str
    appended_at: datetime
    settled_at: datetime | None
    is_failed: bool | None
    """None while there is no outcome."""
    execution: Execution | None
    """None for what was never executed, and for what older versions did."""
    has_payload: bool


@dataclass(frozen=True, slots=True)
class Settlement:
    request_id: str
    outcome: Outcome
    lease_epoch: int
    checkpoint: Checkpoint | None = None
    """The catalogue row that a save makes."""
    execution: Execution | None = None
    snapshot: Snapshot | None = None
    """Of what a load has made of the run: its replay must not lean on the checkpoint."""


@dataclass(frozen=True, slots=True)
class FailedOp:
    seq_id: int
    message: str


@dataclass(frozen=True, slots=True)
class GradientWindow:
    """What a run's gradient is made of at some place of its log."""

    start_seq_id: int
    """The optim_step (failed ones too), load or creation that the gradient came after."""
    failed: tuple[FailedOp, ...]
    """The forward_backwards since then that failed, so that the gradient is incomplete."""


def logged_kind(op: Op) -> str:
    """The op's kind as the log has it: `forward` is a forward_backward that is forward only."""
    if isinstance(op, ForwardBackward) and op.forward_only:
        return "forward"
    return kind_of(op)
