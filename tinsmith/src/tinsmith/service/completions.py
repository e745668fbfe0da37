"""Which samples of a sampler are done: one poll for all of them instead of one for each."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Iterable
from dataclasses import dataclass, field

from tinsmith.domain.errors import InvalidInputError, NotFoundError
from tinsmith.domain.records import Caller
from tinsmith.ledger.ledger import Ledger
from tinsmith.ledger.oplog import MAX_SAMPLE_SEQ_ID, parse_request_id

CLONE_NUMBERS = 10**9
"""A copy of a sampling client numbers its requests from its own multiple of this."""


class _Ring:
    """An event of the loop that it is made in, which any thread can set."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._event = asyncio.Event()

    def clear(self) -> None:
        self._event.clear()

    async def wait(self) -> None:
        await self._event.wait()

    def set(self) -> None:
        try:
            self._loop.call_soon_threadsafe(self._event.set)
        except RuntimeError:  # the loop has closed meanwhile: nobody is there to be told
            return


@dataclass(slots=True)
class _Target:
    """The requests of one copy of a client, in the order in which we learned that they are done."""

    order: list[str] = field(default_factory=list)
    known: set[str] = field(default_factory=set)
    waiters: set[_Ring] = field(default_factory=set)


class Completions:
    """`after` belongs to an event loop, `wake` to any thread.

    The ledger is the truth; what is remembered here is only an order to count in. A cursor starts
    at the time at which this process did, so one of an earlier process is older than all of ours
    and gets everything told again.
    """

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger
        self._start = time.time_ns() // 1000
        self._lock = threading.Lock()
        self._targets: dict[tuple[str, int], _Target] = {}

    async def after(
        self, caller: Caller, sampler_id: str, clone: int, cursor: int, timeout_s: float
    ) -> tuple[list[str], int]:
        """The request_ids that were settled behind the cursor, and the cursor behind them.

        Waits up to `timeout_s` seconds for a first one. A failed request is settled too.

        Raises:
            NotFoundError: no such sampler, or not the caller's.
        """
        sampler = await asyncio.to_thread(self._ledger.sampler, sampler_id)
        if sampler is None or sampler.owner != caller.owner:
            raise NotFoundError(f"there is no sampling session {sampler_id!r}")
        if not 0 <= clone <= MAX_SAMPLE_SEQ_ID // CLONE_NUMBERS:
            raise InvalidInputError(f"cloned_sampler_id {clone} is out of range")
        rung = _Ring()
        with self._lock:
            target = self._targets.setdefault((sampler_id, clone), _Target())
            target.waiters.add(rung)
        try:
            deadline = time.monotonic() + timeout_s
            while True:
                rung.clear()
                await asyncio.to_thread(self._read, sampler_id, clone, target)
                first = max(cursor - self._start, 0)
                with self._lock:
                    found, end = target.order[first:], self._start + len(target.order)
                left = deadline - time.monotonic()
                if found or left <= 0:
                    return found, end
                try:
                    async with asyncio.timeout(left):
                        await rung.wait()
                except TimeoutError:
                    continue  # look once more: a ring may have been lost
        finally:
            with self._lock:
                target.waiters.discard(rung)

    def wake(self, request_ids: Iterable[str]) -> None:
        """Tell those who wait for these requests to look."""
        places = filter(None, map(parse_request_id, request_ids))
        with self._lock:
            for key in {(scope, seq_id // CLONE_NUMBERS) for scope, seq_id in places}:
                for ring in self._targets[key].waiters if key in self._targets else ():
                    ring.set()

    def _read(self, sampler_id: str, clone: int, target: _Target) -> None:
        low = clone * CLONE_NUMBERS
        settled = self._ledger.settled_samples(sampler_id, low, low + CLONE_NUMBERS)
        with self._lock:
            target.order += [one for one in settled if one not in target.known]
            # What the ledger keeps no longer is not told again either.
            target.known = set(settled)
