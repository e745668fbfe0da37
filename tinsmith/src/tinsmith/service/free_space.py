"""Whether there is room on the disk for new work."""

from __future__ import annotations

import logging
import shutil
import threading
import time
from collections.abc import Callable
from pathlib import Path

from tinsmith.telemetry import event

LOOK_EVERY_S = 1.0


class FreeSpace:
    """Looks at the disk of a folder, at most once a second, and says once when room ends and once
    when there is some again. From any thread."""

    def __init__(
        self,
        folder: Path,
        min_free_bytes: int,
        *,
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        """
        Args:
            folder: if it is not there yet, nothing is looked at.
            min_free_bytes: 0 finds room always.
            now: monotonic seconds.
        """
        self._folder = folder
        self._min_free_bytes = min_free_bytes
        self._now = now
        self._looking = threading.Lock()
        self._looked_at: float | None = None
        self._shortage: str | None = None

    def shortage(self) -> str | None:
        """Why new work has to wait; None if it has not."""
        with self._looking:
            now = self._now()
            if self._looked_at is None or now - self._looked_at >= LOOK_EVERY_S:
                self._looked_at = now
                self._look()
            return self._shortage

    def _look(self) -> None:
        try:
            free = shutil.disk_usage(self._folder).free
        except OSError:  # it cannot be told; whoever writes will be
            free = self._min_free_bytes
        was_short, is_short = self._shortage is not None, free < self._min_free_bytes
        self._shortage = self._told(free) if is_short else None
        sizes = {"free_bytes": free, "min_free_bytes": self._min_free_bytes}
        if is_short and not was_short:
            event("intake_stopped", level=logging.WARNING, why="disk", **sizes)
        elif was_short and not is_short:
            event("intake_goes_on", **sizes)

    def _told(self, free_bytes: int) -> str:
        return (
            f"the server's disk is nearly full ({free_bytes / 2**20:,.0f} MiB free, "
            f"{self._min_free_bytes / 2**20:,.0f} MiB have to be); new requests wait until its "
            "operator has made room, or checkpoints are deleted"
        )
