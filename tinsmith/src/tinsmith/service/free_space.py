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
        self._now = now
        self._looking = threading.Lock()
        self._looked_at: float | None = None
        self._free_bytes: int | None = None
        self._is_short = False
        self.min_free_bytes = min_free_bytes

    @property
    def free_bytes(self) -> int | None:
        """None: the disk could not be looked at."""
        self._look()
        return self._free_bytes

    def shortage(self) -> str | None:
        """Why new work has to wait; None if it has not."""
        self._look()
        if not self._is_short or self._free_bytes is None:
            return None
        return (
            f"the server's disk is nearly full ({self._free_bytes / 2**20:,.0f} MiB free, "
            f"{self.min_free_bytes / 2**20:,.0f} MiB have to be); new requests wait until its "
            "operator has made room, or checkpoints are deleted"
        )

    def _look(self) -> None:
        with self._looking:
            now = self._now()
            if self._looked_at is not None and now - self._looked_at < LOOK_EVERY_S:
                return
            self._looked_at = now
            try:
                self._free_bytes = shutil.disk_usage(self._folder).free
            except OSError:  # it cannot be told: whoever writes will be
                self._free_bytes = None
            was_short = self._is_short
            free = self._free_bytes
            self._is_short = free is not None and free < self.min_free_bytes
            if self._is_short and not was_short:
                event(
                    "intake_stopped",
                    level=logging.WARNING,
                    why="disk",
                    free_bytes=free,
                    min_free_bytes=self.min_free_bytes,
                )
            elif was_short and not self._is_short:
                event("intake_goes_on", free_bytes=free)
