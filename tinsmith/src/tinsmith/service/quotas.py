"""Where intake asks whether there is room: for this project, and on this disk.

What exceeds a lasting quota is refused for good. What only has to wait is a BusyError: the SDK
comes again by itself, and who polls meanwhile for what was taken in before is told of it.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Literal

from tinsmith import config
from tinsmith.domain.errors import BusyError
from tinsmith.domain.ops import RunOp, Sample, SaveExternal, SaveForSampler, SaveState
from tinsmith.domain.quota_rules import check_live_runs, check_rank, check_size, check_stored
from tinsmith.domain.records import ServedModel
from tinsmith.domain.request_size import RequestSize
from tinsmith.ledger.entries import Backlog
from tinsmith.ledger.ledger import Ledger
from tinsmith.service.free_space import FreeSpace
from tinsmith.service.token_bucket import TokenBucket

REMEMBERED_S = 1.0
"""A changed quota is felt so much later at most; so old may be the sum of what is queued."""
TOLD_FOR_S = 60.0
"""How long a pause is told of after the last request that had to wait."""
ROOM_PAUSE_S = 5.0
"""When to ask again for room that nobody can say when it will be there."""
MAX_PAUSE_S = 60.0
"""The SDK takes no longer word for it."""


@dataclass(frozen=True, slots=True)
class Pause:
    """Why a project's new requests wait."""

    state: Literal["paused_rate_limit", "paused_capacity"]
    reason: str


class Quotas:
    """One for all projects. From any thread."""

    def __init__(
        self,
        ledger: Ledger,
        limits: config.Limits,
        defaults: config.Quotas,
        space: FreeSpace,
        *,
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        """`now` in monotonic seconds."""
        self._ledger = ledger
        self._max_backlog_ops = limits.max_backlog_ops
        self._defaults = defaults
        self._space = space
        self._now = now
        self._lock = threading.Lock()
        self._creating = threading.Lock()
        self._known: dict[str, tuple[config.Quotas, float]] = {}
        self._queued: dict[str, tuple[int, float]] = {}
        self._buckets: dict[str, TokenBucket] = {}
        self._waits: dict[str, tuple[Pause, float]] = {}

    def of(self, owner: str) -> config.Quotas:
        """A project's, as they were at most a second ago."""
        known = self._known.get(owner)
        if known is not None and self._now() - known[1] < REMEMBERED_S:
            return known[0]
        project = self._ledger.project(owner)
        quotas = self._defaults if project is None else self._defaults.overlaid(project.quotas)
        self._known[owner] = quotas, self._now()
        return quotas

    @contextmanager
    def creation(self, owner: str, rank: int) -> Iterator[Backlog]:
        """Make a run within this: one at a time, so that they are counted right.

        Raises:
            InvalidInputError: its rank, or one more run, exceeds the quota.
            BusyError: as `admission`.
        """
        quotas = self.of(owner)
        check_rank(rank, quotas.rank)
        with self._creating:
            if quotas.live_runs:
                check_live_runs(self._ledger.num_live_runs(owner), quotas.live_runs)
            with self.admission(owner, 0) as backlog:
                yield backlog

    def check_op(self, owner: str, op: RunOp, model: ServedModel) -> RequestSize:
        """How large it is. Raises InvalidInputError if that, or what is stored, exceeds a quota."""
        quotas = self.of(owner)
        size = RequestSize.of(op, model.max_context)
        _check_size(size, quotas)
        if isinstance(op, SaveState | SaveForSampler | SaveExternal):
            self.check_stored(owner)
        return size

    def check_stored(self, owner: str, coming_bytes: int = 0) -> None:
        """Raises InvalidInputError if there is no room for one more checkpoint."""
        allowed = self.of(owner).stored_bytes
        if allowed:
            check_stored(self._ledger.stored_bytes(owner), allowed, coming_bytes)

    def fitted(self, owner: str, sample: Sample, model: ServedModel) -> Sample:
        """The sample; if it leaves the length of its answer open, it ends with the quota.

        Raises:
            InvalidInputError: it exceeds one.
        """
        quotas = self.of(owner)
        room = quotas.sequence_tokens - sample.prompt.size
        if sample.params.max_tokens is None and 0 < room < model.max_context - sample.prompt.size:
            sample = replace(sample, params=replace(sample.params, max_tokens=room))
        _check_size(RequestSize.of(sample, model.max_context), quotas)
        return sample

    @contextmanager
    def admission(self, owner: str, tokens: int) -> Iterator[Backlog]:
        """Log a request of so many tokens within this; they are given back if that fails.

        Raises:
            BusyError: the disk is nearly full, too much of this project is queued, or it has had
                its tokens for now.
        """
        quotas = self.of(owner)
        self.check_space()
        self._check_queued(owner, quotas)
        self._take(owner, tokens, quotas)
        try:
            yield Backlog(self._max_backlog_ops, quotas.queued_ops or self._max_backlog_ops)
        except BaseException as error:
            self._give_back(owner, tokens)
            if isinstance(error, BusyError):
                error.retry_after_s = ROOM_PAUSE_S
                self._note(owner, Pause("paused_capacity", str(error)))
            raise

    def check_space(self) -> None:
        """Raises BusyError while the disk is nearly full."""
        shortage = self._space.shortage()
        if shortage is not None:
            raise _busy(shortage, ROOM_PAUSE_S)

    def pause(self, owner: str) -> Pause | None:
        """Why this project's requests have to wait, if any had to within the last minute."""
        shortage = self._space.shortage()
        if shortage is not None:
            return Pause("paused_capacity", shortage)
        with self._lock:
            noted = self._waits.get(owner)
            if noted is not None and self._now() - noted[1] < TOLD_FOR_S:
                return noted[0]
            self._waits.pop(owner, None)
            return None

    def _check_queued(self, owner: str, quotas: config.Quotas) -> None:
        if not quotas.queued_bytes:
            return
        queued, read_at = self._queued.get(owner, (0, -REMEMBERED_S))
        if self._now() - read_at >= REMEMBERED_S:
            queued = self._ledger.queued_bytes(owner)
            self._queued[owner] = queued, self._now()
        if queued >= quotas.queued_bytes:
            reason = (
                f"this project's waiting requests take {queued} bytes and its quota is "
                f"queued_bytes {quotas.queued_bytes}; new ones wait until some are done"
            )
            self._note(owner, Pause("paused_capacity", reason))
            raise _busy(reason, ROOM_PAUSE_S)

    def _take(self, owner: str, tokens: int, quotas: config.Quotas) -> None:
        if not tokens:
            return
        rate = quotas.tokens_per_minute
        with self._lock:
            if not rate:
                self._buckets.pop(owner, None)  # who has no quota any more owes nothing
                return
            now = self._now()
            bucket = self._buckets.setdefault(owner, TokenBucket(rate, now))
            wait_s = bucket.take(tokens, rate, now)
        if wait_s:
            reason = (
                f"this project has had its tokens for now: its quota is tokens_per_minute {rate}, "
                "training and sampling together; new requests wait"
            )
            self._note(owner, Pause("paused_rate_limit", reason))
            raise _busy(f"{reason}, this one for {wait_s:.0f} s", wait_s)

    def _give_back(self, owner: str, tokens: int) -> None:
        with self._lock:
            if owner in self._buckets:
                self._buckets[owner].give_back(tokens)

    def _note(self, owner: str, pause: Pause) -> None:
        with self._lock:
            self._waits[owner] = pause, self._now()


def _check_size(size: RequestSize, quotas: config.Quotas) -> None:
    check_size(
        size,
        sequence_tokens=quotas.sequence_tokens,
        request_datums=quotas.request_datums,
        request_tokens=quotas.request_tokens,
        tokens_per_minute=quotas.tokens_per_minute,
    )


def _busy(message: str, retry_after_s: float) -> BusyError:
    error = BusyError(message)
    error.retry_after_s = min(max(retry_after_s, 1.0), MAX_PAUSE_S)
    return error
