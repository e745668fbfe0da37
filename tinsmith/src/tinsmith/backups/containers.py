"""What a backup is on disk: files by name and a manifest, in a folder or in one tar file."""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import os
import re
import shutil
import tarfile
import uuid
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO, Any

from tinsmith.checkpoints.syncing import sync_folder
from tinsmith.domain.errors import InvalidInputError, NotFoundError

FORMAT_VERSION = 1
MANIFEST = "manifest.json"
TAR_SUFFIX = ".tar"
_NAME = re.compile(
    r"ledger\.db|token-secret|download-secret|(checkpoints|snapshots)(/[\w@+=:,~-][\w.@+=:,~-]*)+",
    re.ASCII,
)
_UNREADABLE = (
    NotFoundError,
    tarfile.TarError,
    ValueError,
    KeyError,
    TypeError,
    AttributeError,
)
_CHUNK_BYTES = 2**20


@dataclass(frozen=True, slots=True)
class FileEntry:
    bytes: int
    sha256: str


class Writer:
    """A backup that is being made."""

    def __init__(self, folder: Path | None, tar: tarfile.TarFile | None) -> None:
        self._folder = folder
        self._tar = tar

    def add(self, name: str, source: Path) -> FileEntry:
        """Copy a file in."""
        with source.open("rb") as stream:
            size = os.fstat(stream.fileno()).st_size
            return self._add(name, stream, size)

    def finish(self, about: dict[str, Any], files: dict[str, FileEntry]) -> None:
        """Write the manifest: of all that was added, `files` are what counts."""
        entries = {name: asdict(entry) for name, entry in sorted(files.items())}
        manifest = {"format": FORMAT_VERSION, **about, "files": entries}
        data = json.dumps(manifest, indent=2).encode()
        self._add(MANIFEST, io.BytesIO(data), len(data))

    def _add(self, name: str, stream: IO[bytes], size: int) -> FileEntry:
        if self._tar is not None:
            info = tarfile.TarInfo(name)
            info.size, info.mode = size, 0o600
            hashing = _Hashing(stream)
            self._tar.addfile(info, hashing)  # type: ignore[arg-type]
            return FileEntry(size, hashing.digest())
        assert self._folder is not None
        return write_durably(self._folder / name, stream)


class Reader:
    """A backup that was made."""

    def __init__(self, folder: Path | None, tar: tarfile.TarFile | None) -> None:
        self._folder = folder
        self._tar = tar

    @contextlib.contextmanager
    def open(self, name: str) -> Iterator[IO[bytes]]:
        """Raises NotFoundError."""
        try:
            if self._tar is not None:
                member = self._tar.getmember(name)
                stream = self._tar.extractfile(member) if member.isreg() else None
            else:
                assert self._folder is not None
                stream = (self._folder / name).open("rb")
        except (KeyError, FileNotFoundError, NotADirectoryError, IsADirectoryError):
            stream = None
        if stream is None:
            raise NotFoundError(f"{name} is missing")
        with stream:
            yield stream

    def manifest(self) -> tuple[dict[str, Any], dict[str, FileEntry]]:
        """What it says about itself, and its files.

        Raises:
            InvalidInputError: it is no backup, a damaged one, or one of a newer tinsmith.
        """
        try:
            with self.open(MANIFEST) as stream:
                about = json.loads(stream.read())
            version = about.pop("format")
            if isinstance(version, int) and version > FORMAT_VERSION:
                raise InvalidInputError(
                    f"this backup is in format {version}, and this tinsmith reads up to "
                    f"{FORMAT_VERSION}; use a newer one"
                )
            files = {
                name: FileEntry(int(entry["bytes"]), str(entry["sha256"]))
                for name, entry in about.pop("files").items()
            }
        except _UNREADABLE as error:
            raise InvalidInputError(
                f"this is no backup, or a damaged one: {MANIFEST} is missing or not readable"
            ) from error
        if bad := next((name for name in files if not _NAME.fullmatch(name)), None):
            raise InvalidInputError(f"the backup's manifest names {bad!r}, which no backup holds")
        if "ledger.db" not in files:
            raise InvalidInputError("the backup holds no ledger")
        return about, files


@contextlib.contextmanager
def making(target: Path) -> Iterator[Writer]:
    """A backup that appears under its name when it is whole and on disk, and else not at all: a
    tar file if the name ends in .tar, a folder otherwise."""
    fresh = target.with_name(f".{target.name}.{uuid.uuid4().hex}.new")
    try:
        if target.suffix == TAR_SUFFIX:
            with (
                os.fdopen(os.open(fresh, os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o600), "wb") as file,
                tarfile.open(fileobj=file, mode="w", format=tarfile.PAX_FORMAT) as tar,
            ):
                yield Writer(None, tar)
                tar.close()
                file.flush()
                os.fsync(file.fileno())
        else:
            fresh.mkdir(0o700)
            yield Writer(fresh, None)
            sync_folders(fresh)
        with reading(fresh) as reader:
            check(reader)
        fresh.rename(target)
        sync_folder(target.parent)
    finally:
        shutil.rmtree(fresh, ignore_errors=True)
        with contextlib.suppress(OSError):
            fresh.unlink()


@contextlib.contextmanager
def reading(source: Path) -> Iterator[Reader]:
    """Raises InvalidInputError for what is neither a folder nor a tar file."""
    if source.is_dir():
        yield Reader(source, None)
        return
    try:
        tar = tarfile.open(source, mode="r:")  # noqa: SIM115
    except (OSError, tarfile.TarError) as error:
        raise InvalidInputError(
            f"{source} is no backup: it is neither a folder nor a tar file that can be read"
        ) from error
    with tar:
        yield Reader(None, tar)


def check(reader: Reader) -> None:
    """Raises InvalidInputError unless every file is what was written."""
    _, files = reader.manifest()
    for name, entry in files.items():
        verified(reader, name, entry, None)


def verified(reader: Reader, name: str, entry: FileEntry, target: Path | None) -> None:
    """Read a file through, copying it if there is a target; InvalidInputError unless it is what
    was written."""
    try:
        with reader.open(name) as stream:
            if target is not None:
                found = write_durably(target, stream)
            else:
                hashing = _Hashing(stream)
                while hashing.read(_CHUNK_BYTES):
                    pass
                found = FileEntry(hashing.num_bytes, hashing.digest())
    except (NotFoundError, tarfile.TarError) as error:
        raise InvalidInputError(f"the backup is damaged: {error}") from error
    if found != entry:
        raise InvalidInputError(f"the backup is damaged: {name} is not what was written")


def write_durably(path: Path, stream: IO[bytes]) -> FileEntry:
    """A new file for its owner's eyes only, on disk when this returns."""
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    hashing = _Hashing(stream)
    flags = os.O_CREAT | os.O_EXCL | os.O_WRONLY | getattr(os, "O_BINARY", 0)
    with os.fdopen(os.open(path, flags, 0o600), "wb") as file:
        while data := hashing.read(_CHUNK_BYTES):
            file.write(data)
        file.flush()
        os.fsync(file.fileno())
    return FileEntry(hashing.num_bytes, hashing.digest())


def sync_folders(root: Path) -> None:
    """Make the names below a folder durable."""
    for directory, _, _ in os.walk(root):
        sync_folder(Path(directory))


class _Hashing:
    """A stream whose bytes are counted and digested as they are read."""

    def __init__(self, stream: IO[bytes]) -> None:
        self._stream = stream
        self._sha256 = hashlib.sha256()
        self.num_bytes = 0

    def read(self, size: int) -> bytes:
        data = self._stream.read(size)
        self._sha256.update(data)
        self.num_bytes += len(data)
        return data

    def digest(self) -> str:
        return self._sha256.hexdigest()
