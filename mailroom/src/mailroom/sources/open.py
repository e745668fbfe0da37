"""From what a person typed to messages, in order.

FILE.eml            one message
mbox:FILE           an mbox
maildir:FOLDER      a Maildir
FILE                an mbox if it starts with "From ", else one message
FOLDER              a Maildir if it has `cur` or `new`, else its .eml files by name
-                   standard input: an mbox or one message
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from itertools import chain
from pathlib import Path
from typing import BinaryIO

from mailroom.sources.maildir import is_maildir, read_maildir
from mailroom.sources.mbox import read_stream, starts_like_mbox
from mailroom.sources.raw_message import RawMessage, SourceError, read_message_file

SCHEME = re.compile(r"([a-z][a-z0-9+.-]+):(.*)", re.DOTALL)
READABLE = "FILE.eml, mbox:FILE, maildir:FOLDER, a folder of .eml files, or - for standard input"

Reader = Callable[[], Iterator[RawMessage]]


def open_source(places: str | Sequence[str], stdin: BinaryIO) -> Iterator[RawMessage]:
    """The messages of all places in turn, numbered from 0. Read as they are asked for.

    Every place is looked at before the first message comes, so a wrong one costs no work. Nothing
    is ever written, moved or locked. A message that cannot be read later on has an `error`.

    Raises:
        SourceError: at once; a place does not exist, cannot be read, or is no source.
    """
    places = [places] if isinstance(places, str) else list(places)
    if not places:
        raise SourceError(f"no source was named; allowed: {READABLE}")
    if places.count("-") > 1:
        raise SourceError("standard input (-) can be read only once")
    readers = [_reader(place, stdin) for place in places]
    messages = chain.from_iterable(reader() for reader in readers)
    return (replace(message, index=index) for index, message in enumerate(messages))


def _reader(place: str, stdin: BinaryIO) -> Reader:
    if place == "-":
        return partial(read_stream, stdin, "standard input")
    try:
        scheme = SCHEME.fullmatch(place)
        if scheme is None or Path(place).exists():
            return _detected(Path(place), place)
        if scheme[1] == "mbox":
            return _mbox(_existing(scheme[2], place), place)
        if scheme[1] == "maildir":
            return _maildir(_existing(scheme[2], place), place)
    except (OSError, ValueError) as error:  # ValueError: a NUL in the name
        raise SourceError(f"cannot read {place!r}: {error}") from error
    raise SourceError(f"mailroom cannot read {scheme[1]}: sources ({place!r}); allowed: {READABLE}")


def _existing(name: str, place: str) -> Path:
    if not name:
        raise SourceError(f"{place!r} names no path")
    path = Path(name).expanduser()
    if not path.exists():
        raise SourceError(f"there is no file or folder {str(path)!r}")
    return path


def _detected(path: Path, place: str) -> Reader:
    path = _existing(str(path), place)
    if path.is_dir():
        if is_maildir(path):
            return _maildir(path, place)
        files = sorted(file for file in path.iterdir() if file.suffix.lower() == ".eml")
        if not files:
            raise SourceError(
                f"{place!r} is neither a Maildir (no cur or new in it) nor holds any .eml file"
            )
        return lambda: map(read_message_file, files)
    if path.is_file():  # opening a pipe and closing it again would end its writer
        path.open("rb").close()
    if path.suffix.lower() == ".eml":
        return lambda: iter([read_message_file(path)])
    return partial(_read_file, path)


def _mbox(path: Path, place: str) -> Reader:
    if path.is_dir():
        raise SourceError(f"{place!r} is a folder; an mbox is a file (maildir:{path}?)")
    if path.is_file():  # a pipe can be read once only: it is taken at its word
        with path.open("rb") as stream:
            if not starts_like_mbox(stream):
                raise SourceError(f"{place!r} is no mbox: its first line does not start with From")
    return partial(_read_file, path, is_mbox=True)


def _maildir(path: Path, place: str) -> Reader:
    if not path.is_dir() or not is_maildir(path):
        raise SourceError(f"{place!r} is no Maildir: there is no cur or new in it")
    for _ in read_maildir(path):  # lists the folders and reads one message, so refusals come now
        break
    return partial(read_maildir, path)


def _read_file(path: Path, *, is_mbox: bool = False) -> Iterator[RawMessage]:
    with path.open("rb") as stream:
        yield from read_stream(stream, str(path), is_mbox=is_mbox)
