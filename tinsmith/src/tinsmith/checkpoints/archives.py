"""Tars from strangers, read and never unpacked: what is odd about one is refused by its name.

tarfile itself is kept on a short lead: a header may announce gigabytes, a hundred bytes of gzip may
stand for them, and what it parses it keeps in memory.
"""

from __future__ import annotations

import gzip
import re
import tarfile
import zlib
from collections.abc import Iterator, Mapping
from pathlib import Path, PurePosixPath
from typing import BinaryIO, cast

import psutil

from tinsmith.domain.errors import InvalidInputError

MAX_MEMBERS = 1000
MAX_ALL_BYTES = 64 * 2**30
MAX_HEADER_BYTES = 4 * 2**20
"""All that is not a file's content: names, times, and what people add to those."""
PIECE_BYTES = 2**20
GZIP_MAGIC = b"\x1f\x8b"
_DRIVE = re.compile(r"[A-Za-z]:")


def read_tar(path: Path, wanted: Mapping[str, int]) -> dict[str, bytes]:
    """Whole paths -> contents, of files called like the wanted ones.

    Args:
        wanted: the files' names without folders, and how many bytes each may have.

    Raises:
        InvalidInputError: no tar or tar.gz; or with something in it that no checkpoint has: a
            link or a device, a path that leads out, two files of one name, holes, too much.
        OSError: it can't be read.
    """
    with path.open("rb") as file:
        is_gzip = file.read(2) == GZIP_MAGIC
        file.seek(0)
        try:
            with gzip.GzipFile(fileobj=file) if is_gzip else file as plain:
                return dict(_files(path, _Lead(path, plain), wanted))
        except (tarfile.TarError, EOFError, zlib.error, gzip.BadGzipFile) as error:
            raise InvalidInputError(
                f"{path} is no whole tar or tar.gz: {error or 'it ends early'}"
            ) from error
        except (RecursionError, ValueError, OverflowError) as error:  # of headers upon headers
            raise InvalidInputError(f"{path} has headers that make no sense") from error


def _files(path: Path, lead: _Lead, wanted: Mapping[str, int]) -> Iterator[tuple[str, bytes]]:
    seen: set[PurePosixPath] = set()
    all_bytes = 0
    with tarfile.open(fileobj=cast(BinaryIO, lead), mode="r:") as archive:
        for member in archive:
            place = _checked_place(path, member)
            if place in seen:
                raise _refused(path, member, "is in it twice")
            seen.add(place)
            all_bytes += member.size
            if len(seen) > MAX_MEMBERS or all_bytes > MAX_ALL_BYTES:
                raise InvalidInputError(f"{path} holds more than any checkpoint does")
            if not member.isfile() or place.name not in wanted:
                continue
            if member.size > wanted[place.name]:
                raise _refused(path, member, f"has {member.size} bytes, too many for such a file")
            if member.size > psutil.virtual_memory().available:
                raise _refused(path, member, f"has {member.size} bytes; so much memory is not free")
            yield str(place), lead.content(archive, member)


def _checked_place(path: Path, member: tarfile.TarInfo) -> PurePosixPath:
    place = PurePosixPath(member.name)
    is_odd = "\\" in member.name or not member.name.isprintable() or _DRIVE.match(member.name)
    if is_odd or place.is_absolute() or ".." in place.parts:
        raise _refused(path, member, "has a path that leads out of it")
    if not (member.isfile() or member.isdir()):
        raise _refused(path, member, "is a link or a device")
    if member.issparse() or member.size < 0:
        raise _refused(path, member, "has holes")
    return place


def _refused(path: Path, member: tarfile.TarInfo, why: str) -> InvalidInputError:
    return InvalidInputError(
        f"{path}: {member.name[:80]!r} {why}; nothing of it was imported. An adapter is plain files"
    )


class _Lead:
    """The file that tarfile reads, as far as it is let."""

    def __init__(self, path: Path, file: BinaryIO | gzip.GzipFile) -> None:
        self._path = path
        self._file = file
        self._left = MAX_HEADER_BYTES

    def read(self, size: int = -1) -> bytes:
        if not 0 <= size <= self._left:
            raise InvalidInputError(f"{self._path} has more headers than any checkpoint has")
        self._left -= size
        return self._file.read(size)

    def seek(self, place: int, whence: int = 0) -> int:
        if place > MAX_ALL_BYTES + MAX_HEADER_BYTES:
            raise InvalidInputError(f"{self._path} holds more than any checkpoint does")
        return self._file.seek(place, whence)

    def tell(self) -> int:
        return self._file.tell()

    def content(self, archive: tarfile.TarFile, member: tarfile.TarInfo) -> bytes:
        file = archive.extractfile(member)
        assert file is not None  # it is a plain file
        self._left += member.size
        pieces = []
        while piece := file.read(PIECE_BYTES):
            pieces.append(piece)
        content = b"".join(pieces)
        if len(content) != member.size:
            raise EOFError
        return content
