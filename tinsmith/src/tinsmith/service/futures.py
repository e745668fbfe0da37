"""Waiting for outcomes without polling the ledger."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor

from tinsmith.domain.errors import NotFoundError
from tinsmith.domain.outcomes import Failed, FailureCategory, Outcome
from tinsmith.domain.records import Caller
from tinsmith.ledger.ledger import Ledger
from tinsmith.telemetry import failure

_Waiter = asyncio.Future[Outcome]


class ResultGoneError(NotFoundError):
    """The result was there and is kept no longer; a sample may be submitted again."""


class Futures:
    """Ops seen from outside. `wait` belongs to an event loop, `wake` to any thread.

    A waiter registers first and looks into the ledger then, so an outcome that is recorded in
    between is either seen or rung for. A ring that gets lost costs no more than the rest of the
    poll: the next one looks again.
    """

    def __init__(
        self, ledger: Ledger, tell_cancelled: Callable[[str, str], object] | None = None
    ) -> None:
        """`tell_cancelled(base model, request_id)` lets an engine know what it can drop."""
        self._ledger = ledger
        self._tell_cancelled = tell_cancelled
        self._lock = threading.Lock()
        self._waiters: dict[str, set[_Waiter]] = {}
        self._rung: set[str] = set()
        self._is_reading = False
        self._is_closed = False
        self._reader = ThreadPoolExecutor(1, thread_name_prefix="futures reader")

    async def wait(self, caller: Caller, request_id: str, timeout_s: float) -> Outcome | None:
        """The op's outcome, or None if there is none yet after `timeout_s` seconds.

        Outcomes can be read again and by several waiters; one who leaves is forgotten.

        Raises:
            NotFoundError: no such request, or not the caller's.
            ResultGoneError: a sample's result that was kept long enough.
        """
        waiter: _Waiter = asyncio.get_running_loop().create_future()
        with self._lock:
            self._waiters.setdefault(request_id, set()).add(waiter)
        try:
            status = await asyncio.to_thread(self._ledger.op_status, request_id)
            if status is None or status.owner != caller.owner:
                raise NotFoundError(f"there is no request {request_id!r}")
            if status.is_gone:
                raise ResultGoneError(f"the result of {request_id} is kept no longer; ask anew")
            if status.outcome is not None:
                return status.outcome
            try:
                async with asyncio.timeout(timeout_s):
                    return await waiter
            except TimeoutError:
                return None
        finally:
            with self._lock:
                others = self._waiters[request_id]
                others.discard(waiter)
                if not others:
                    del self._waiters[request_id]

    def cancel(self, caller: Caller, request_id: str) -> None:
        """End a sample whose result nobody wants; anything else, and what is settled, is left as
        it is.

        Raises:
            NotFoundError: no such request, or not the caller's.
        """
        status = self._ledger.op_status(request_id)
        if status is None or status.owner != caller.owner:
            raise NotFoundError(f"there is no request {request_id!r}")
        base_model = self._ledger.cancel_sample(
            request_id, caller.owner, Failed(FailureCategory.USER, "cancelled by its client")
        )
        if base_model is not None:
            self.wake([request_id])
            if self._tell_cancelled is not None:
                self._tell_cancelled(base_model, request_id)

    def wake(self, request_ids: Iterable[str]) -> None:
        """Tell those who wait for these requests to look: the ledger holds their outcomes.

        Returns at once. However many are rung for while one query runs, the next query serves
        them all.
        """
        with self._lock:
            self._rung.update(id_ for id_ in request_ids if id_ in self._waiters)
            if self._is_reading or self._is_closed or not self._rung:
                return
            self._is_reading = True
            self._reader.submit(self._read)

    def num_waiting(self) -> int:
        """How many polls are held right now."""
        with self._lock:
            return sum(len(waiters) for waiters in self._waiters.values())

    def close(self) -> None:
        """Stop the thread that reads for the waiters; who still waits runs into the timeout."""
        with self._lock:
            self._is_closed = True
        self._reader.shutdown()

    def _read(self) -> None:
        while True:
            with self._lock:
                wanted, self._rung = self._rung, set()
                if not wanted:
                    self._is_reading = False
                    return
            try:
                outcomes = self._ledger.outcomes(wanted)
            except Exception as error:  # the edge of this thread, which must live on
                # The waiters' next poll meets the trouble itself, if it lasts.
                failure("outcomes_unreadable", error, requests=len(wanted))
                continue
            with self._lock:
                for request_id, outcome in outcomes.items():
                    for waiter in self._waiters.get(request_id, ()):
                        _hand_over(waiter, outcome)


def _hand_over(waiter: _Waiter, outcome: Outcome) -> None:
    try:
        waiter.get_loop().call_soon_threadsafe(_set_unless_gone, waiter, outcome)
    except RuntimeError:  # its event loop has closed meanwhile: nobody is there to be told
        return


def _set_unless_gone(waiter: _Waiter, outcome: Outcome) -> None:
    if not waiter.done():
        waiter.set_result(outcome)
