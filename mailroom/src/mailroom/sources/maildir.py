"""A Maildir, read where it lies: nothing is moved from `new` to `cur`, no flag changes."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from mailroom.sources.raw_message import RawMessage, read_message_file

FOLDERS = ("cur", "new")
"""`tmp` holds messages that are still being delivered."""


def is_maildir(path: Path) -> bool:
    return any((path / folder).is_dir() for folder in FOLDERS)


def read_maildir(path: Path) -> Iterator[RawMessage]:
    """Messages of `cur` and `new`, oldest delivery first; subfolders (`.Sent`) are not entered.

    The list of names is taken at the start. A message that another program flags or moves from
    `new` to `cur` meanwhile is looked for under its new name.

    Raises:
        OSError: a folder cannot be listed.
    """
    names: list[tuple[int, str, str]] = []
    for folder in FOLDERS:
        if not (path / folder).is_dir():
            continue
        with os.scandir(path / folder) as entries:
            names += [
                (_delivered(entry.name), entry.name, folder)
                for entry in entries
                if not entry.name.startswith(".") and not entry.is_dir()
            ]
    for _, name, folder in sorted(names):
        file = path / folder / name
        yield read_message_file(file if file.exists() else _moved(path, name) or file)


def _delivered(name: str) -> int:
    """The delivery time that a Maildir name begins with; 0 if it does not."""
    seconds = name.partition(".")[0]
    return int(seconds) if seconds.isascii() and seconds.isdigit() and len(seconds) < 20 else 0


def _moved(path: Path, name: str) -> Path | None:
    unique = name.partition(":")[0]
    for folder in FOLDERS:
        if (path / folder).is_dir():
            for file in (path / folder).iterdir():
                if file.name.partition(":")[0] == unique:
                    return file
    return None
