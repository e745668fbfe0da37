"""How many requests may wait for results at the same time."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager

from tinsmith.domain.errors import BusyError


class WaitingRoom:
    """Belongs to one event loop."""

    def __init__(self, max_waiting: int, max_waiting_per_owner: int) -> None:
        self._max = max_waiting
        self._max_per_owner = max_waiting_per_owner
        self._num_of: Counter[str] = Counter()

    @contextmanager
    def seat(self, owner: str) -> Iterator[None]:
        """Stay while one of the owner's requests waits. Raises BusyError if there is no room."""
        if self._num_of.total() >= self._max:
            raise BusyError(f"{self._max} requests wait for results already; repeat later")
        if self._num_of[owner] >= self._max_per_owner:
            raise BusyError(
                f"{self._max_per_owner} of your requests wait for results already; wait for some "
                "of them before you ask for more"
            )
        self._num_of[owner] += 1
        try:
            yield
        finally:
            self._num_of[owner] -= 1
            if not self._num_of[owner]:
                del self._num_of[owner]
