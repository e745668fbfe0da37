"""So many tokens per minute, none of them saved up for longer than that."""

from __future__ import annotations


class TokenBucket:
    """Full at first. Whoever comes while there is a token may take whatever he needs, into debt if
    need be, and the next one waits until that is paid: a large request never waits for ever behind
    small ones, and the mean rate holds.

    Times are monotonic seconds. Not safe for threads.
    """

    def __init__(self, per_minute: int, now: float) -> None:
        self._level = float(per_minute)
        self._filled_at = now

    def take(self, tokens: int, per_minute: int, now: float) -> float:
        """0 if they were taken, else in how many seconds to ask again."""
        rate = per_minute / 60.0
        gained = (now - self._filled_at) * rate
        self._level = min(self._level + gained, float(per_minute))
        self._filled_at = now
        if self._level < 1.0:
            return (1.0 - self._level) / rate
        self._level -= tokens
        return 0.0

    def give_back(self, tokens: int) -> None:
        """What was taken for a request that did not come in after all."""
        self._level += tokens
