"""Files of a home folder that stay readable while a server deletes and replaces them."""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

from filelock import FileLock, Timeout

from tinsmith.domain.errors import StorageError

PINNED = ("checkpoints", "snapshots")


class Pins:
    """Second names (hard links) of all checkpoint and snapshot files, taken several times. They
    cost no space; where the disk has no such names, the files are copied."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._home = folder.parent
        self._num_taken = 0

    @classmethod
    @contextlib.contextmanager
    def of(cls, home: Path) -> Iterator[Pins]:
        """Gone at the end, and so are those that a crash has left.

        Raises:
            StorageError: another backup of this home folder is being made, or it can't be used.
        """
        folder = home / ".backup"
        try:
            with FileLock(home / "backup.lock", timeout=0):
                shutil.rmtree(folder, ignore_errors=True)
                try:
                    yield cls(folder)
                finally:
                    shutil.rmtree(folder, ignore_errors=True)
        except Timeout:
            raise StorageError(f"another backup of {home} is being made") from None

    def take(self) -> None:
        """Pin what is there now."""
        generation = self._folder / str(self._num_taken)
        self._num_taken += 1
        for top in PINNED:
            for directory, folders, files in os.walk(self._home / top):
                # Hidden ones are being written or deleted.
                folders[:] = [name for name in folders if not name.startswith(".")]
                target = generation / Path(directory).relative_to(self._home)
                target.mkdir(parents=True, exist_ok=True)
                for name in files:
                    _pin(Path(directory, name), target / name)

    def generations(self) -> list[Path]:
        """Folders laid out as the home folder, newest first."""
        return [self._folder / str(number) for number in reversed(range(self._num_taken))]


def _pin(source: Path, target: Path) -> None:
    try:
        os.link(source, target)
    except FileNotFoundError:  # deleted since the folder was read
        return
    except OSError:
        with contextlib.suppress(FileNotFoundError):
            shutil.copyfile(source, target)
