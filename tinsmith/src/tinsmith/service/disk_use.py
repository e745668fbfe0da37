"""What takes room on the disk of the home folder, by kind and by project."""

from __future__ import annotations

import shutil
import threading
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from tinsmith.config import Config
from tinsmith.ledger.ledger import Ledger
from tinsmith.ledger.usage_ledger import DiskShare

REMEMBERED_S = 10.0


@dataclass(frozen=True, slots=True)
class DiskUse:
    """In bytes."""

    free: int
    min_free: int
    """Below it no new work is taken in."""
    ledger: int
    """The SQLite file and those beside it; 0 if the ledger is elsewhere."""
    aside: int
    """Runs that had to leave memory."""
    projects: tuple[DiskShare, ...]

    @property
    def by_kind(self) -> dict[str, int]:
        return {
            "ledger": self.ledger,
            "checkpoints": sum(share.checkpoints for share in self.projects),
            "snapshots": sum(share.snapshots for share in self.projects),
            "aside": self.aside,
        }


def measure_disk_use(config: Config, ledger: Ledger) -> DiskUse:
    """Files are asked for their sizes, but checkpoints and snapshots are read off the catalogue:
    a few queries, however many there are."""
    return DiskUse(
        free=shutil.disk_usage(config.home).free,
        min_free=config.limits.min_free_bytes,
        ledger=_sizes(config.home.glob("ledger.db*")),
        aside=_sizes((config.home / "aside").rglob("*")),
        projects=tuple(ledger.disk_shares()),
    )


class DiskUseMeter:
    """Measures when it is asked, but not every time. From any thread."""

    def __init__(self, config: Config, ledger: Ledger) -> None:
        self._config = config
        self._ledger = ledger
        self._measuring = threading.Lock()
        self._measured: tuple[DiskUse, float] | None = None

    def read(self) -> DiskUse:
        """As it was a few seconds ago at most. May block."""
        with self._measuring:
            now = time.monotonic()
            if self._measured is None or now - self._measured[1] >= REMEMBERED_S:
                self._measured = measure_disk_use(self._config, self._ledger), now
            return self._measured[0]


def _sizes(files: Iterable[Path]) -> int:
    total = 0
    for file in files:
        try:
            total += file.stat().st_size if file.is_file() else 0
        except FileNotFoundError:  # it was there a moment ago
            continue
    return total
