"""What goes into the log and comes out of it."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from tinsmith.domain.errors import ServiceError, UserError
from tinsmith.domain.ops import ForwardBackward, Op, kind_of
from tinsmith.domain.outcomes import Outcome
from tinsmith.domain.records import Checkpoint


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
class Settlement:
    request_id: str
    outcome: Outcome
    lease_epoch: int
    checkpoint: Checkpoint | None = None
    """The catalogue row that a save makes."""


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


@dataclass(frozen=True, slots=True)
class SweepCount:
    """What `sweep` dropped."""

    results: int
    payloads: int


def logged_kind(op: Op) -> str:
    """The op's kind as the log has it: `forward` is a forward_backward that is forward only."""
    if isinstance(op, ForwardBackward) and op.forward_only:
        return "forward"
    return kind_of(op)
