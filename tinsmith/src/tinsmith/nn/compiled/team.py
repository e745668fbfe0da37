"""Threads that run one compiled function together.

Threads of our own rather than numba's: a step is one function with barriers inside, which leaves
Python once, compiles once, and needs no second OpenMP beside torch's.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
from numpy.typing import NDArray


class Team:
    """`num_threads` threads, the caller's among them. One function at a time."""

    def __init__(self, num_threads: int) -> None:
        self.num_threads = num_threads
        self._arrivals = np.zeros(1, dtype=np.int64)
        self._others = None
        if num_threads > 1:
            self._others = ThreadPoolExecutor(num_threads - 1, "tinsmith-decode")

    def run(self, function: Callable[..., None], num_tickets: int, *arguments: Any) -> None:
        """Call function(thread, (num_threads, arrivals, tickets), *arguments) in every thread;
        returns when all have returned. The function must not raise: others would wait for it."""
        tickets: NDArray[np.int64] = np.zeros(num_tickets, dtype=np.int64)
        team = (self.num_threads, self._arrivals, tickets)
        calls = [
            self._others.submit(function, thread, team, *arguments)
            for thread in range(1, self.num_threads)
            if self._others is not None
        ]
        function(0, team, *arguments)
        for call in calls:
            call.result()
