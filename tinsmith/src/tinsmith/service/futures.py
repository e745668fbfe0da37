"""Waiting for outcomes without polling the ledger."""

from __future__ import annotations

from collections.abc import Iterable

from tinsmith.domain.errors import NotFoundError
from tinsmith.domain.outcomes import Outcome
from tinsmith.domain.records import Caller
from tinsmith.ledger.ledger import Ledger


class ResultGoneError(NotFoundError):
    """The result was there and is kept no longer; a sample may be submitted again."""


class Futures:
    """Ops seen from outside. `wait` belongs to an event loop, `wake` to any thread."""

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger

    async def wait(self, caller: Caller, request_id: str, timeout_s: float) -> Outcome | None:
        """The op's outcome, or None if there is none yet after `timeout_s` seconds.

        Outcomes can be read again and by several waiters; one who leaves is forgotten.

        Raises:
            NotFoundError: no such request, or not the caller's.
            ResultGoneError: a sample's result that was kept long enough.
        """
        raise NotImplementedError

    def wake(self, request_ids: Iterable[str]) -> None:
        """Tell those who wait for these requests to look: the ledger holds their outcomes."""
        raise NotImplementedError

    def close(self) -> None:
        """Stop the thread that reads for the waiters."""
        raise NotImplementedError
