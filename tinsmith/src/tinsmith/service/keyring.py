"""What the ledger says of keys, remembered for a moment, as every request asks."""

from __future__ import annotations

import time
from datetime import UTC, datetime, timedelta

from tinsmith.domain.projects import ApiKey
from tinsmith.ledger.ledger import Ledger

REMEMBERED_S = 1.0
"""So much later at most, everybody feels that a key was revoked, or the first one made."""
TOUCHED_EVERY = timedelta(minutes=1)


class Keyring:
    """May be asked from any thread. A key that nobody has asked for yet is always looked up, so a
    new one is good at once; what is not there is not remembered, so nobody can fill the memory.
    """

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger
        self._found: dict[str, tuple[ApiKey, float]] = {}
        """key_id -> the key, and when it was asked for, in monotonic seconds."""
        self._is_empty = True
        self._looked_at: float | None = None

    def is_empty(self) -> bool:
        """Whether there has never been a key."""
        if self._is_empty and not _is_fresh(self._looked_at):
            asked_at = time.monotonic()
            if self._ledger.has_keys():  # and never back: another thread may know better
                self._is_empty = False
            self._looked_at = asked_at
        return self._is_empty

    def find(self, key_id: str) -> ApiKey | None:
        """The key, as it was at most a second ago; revoked and expired ones too."""
        remembered = self._found.get(key_id)
        if remembered is not None and _is_fresh(remembered[1]):
            return remembered[0]
        asked_at = time.monotonic()
        key = self._ledger.api_key(key_id)
        if key is not None:
            self._found[key_id] = (key, asked_at)
            self._touch(key)
        return key

    def remembers(self, key_id: str | None) -> bool:
        """Whether all that has to be known about this key is known without the ledger."""
        if self._is_empty:
            return _is_fresh(self._looked_at)
        remembered = None if key_id is None else self._found.get(key_id)
        return remembered is not None and _is_fresh(remembered[1])

    def _touch(self, key: ApiKey) -> None:
        now = datetime.now(UTC)
        is_new = key.last_used_at is None or now - key.last_used_at >= TOUCHED_EVERY
        if is_new and key.is_good_at(now):
            self._ledger.touch_key(key.key_id, now)


def _is_fresh(read_at: float | None) -> bool:
    return read_at is not None and time.monotonic() - read_at < REMEMBERED_S
