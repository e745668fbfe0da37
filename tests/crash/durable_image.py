"""What a disk would hold if the power went now: what was synced, and nothing else.

Two disks are imagined. `late`: names appear, move and go when their folder is synced. `early`: they
do at once, as another program's sync may have it. On both, a file holds what it held when it was
synced last, and nothing if it never was.
"""

from __future__ import annotations

import stat
from collections.abc import Iterator
from pathlib import Path


class DurableImage:
    """Told of every sync below one folder, before or after it happens."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._contents: dict[int, bytes] = {}
        """By inode: as synced last."""
        self._entries: dict[int, dict[str, tuple[int, bool]]] = {}
        """By a folder's inode: name -> (inode, whether it is a folder), as synced last."""

    def note_sync(self, path: Path) -> None:
        inode = path.stat().st_ino
        if path.is_dir():
            self._entries[inode] = dict(_entries_now(path))
        else:
            self._contents[inode] = path.read_bytes()

    def restore(self, target: Path, *, early: bool) -> None:
        """Make a folder as it would be found."""
        target.mkdir(parents=True)
        if early:
            self._restore_early(self._root, target)
        else:
            self._restore_late(self._root.stat().st_ino, target)

    def _restore_early(self, folder: Path, target: Path) -> None:
        for name, (inode, is_folder) in _entries_now(folder):
            if is_folder:
                (target / name).mkdir()
                self._restore_early(folder / name, target / name)
            else:
                (target / name).write_bytes(self._contents.get(inode, b""))

    def _restore_late(self, folder_inode: int, target: Path) -> None:
        for name, (inode, is_folder) in self._entries.get(folder_inode, {}).items():
            if is_folder:
                (target / name).mkdir()
                self._restore_late(inode, target / name)
            else:
                (target / name).write_bytes(self._contents.get(inode, b""))


def _entries_now(folder: Path) -> Iterator[tuple[str, tuple[int, bool]]]:
    for path in folder.iterdir():
        about = path.lstat()
        yield path.name, (about.st_ino, stat.S_ISDIR(about.st_mode))
