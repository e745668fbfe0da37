"""Files that hold the whole states of runs: one flat safetensors file for each snapshot."""

from __future__ import annotations

import contextlib
import hashlib
import os
import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from tinsmith.checkpoints.flat_vectors import Vectors, pieces, read_vectors
from tinsmith.checkpoints.syncing import make_folder, sync_folder
from tinsmith.domain.errors import ServiceError, StorageError


class DamagedSnapshotError(ServiceError):
    """A snapshot's file is gone or does not hold what was written."""


@dataclass(frozen=True, slots=True)
class WrittenSnapshot:
    file: str
    """Its path below the store's folder."""
    size_bytes: int
    digest: str
    """SHA-256 of the file."""


class SnapshotStore:
    """The snapshots of one home folder. A file is written once, under a name of its own."""

    def __init__(self, root: Path) -> None:
        self._root = root

    def write(self, folder: str, title: str, vectors: Vectors) -> WrittenSnapshot:
        """Make the vectors durable, whole or not at all, for the owner's eyes only.

        Args:
            folder: below the store's; one for each base model.
            title: how the file's name begins; a few letters that make it unique follow.

        Raises:
            StorageError: the disk refused; nothing is left behind.
        """
        file = f"{folder}/{title}-{uuid.uuid4().hex[:8]}.safetensors"
        path = self._root / file
        fresh = path.with_suffix(".new")
        digest, size = hashlib.sha256(), 0
        try:
            make_folder(path.parent)
            flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_BINARY", 0)
            with os.fdopen(os.open(fresh, flags, 0o600), "wb") as stream:
                for piece in pieces(vectors):
                    stream.write(piece)
                    digest.update(piece)
                    size += len(piece)
                stream.flush()
                os.fsync(stream.fileno())
            fresh.rename(path)
            sync_folder(path.parent)
        except OSError as error:
            for left in (fresh, path):
                with contextlib.suppress(OSError):
                    left.unlink()
            raise StorageError(
                f"a snapshot can't be written: {error.strerror or error}; free space on the disk "
                "of the home folder"
            ) from error
        return WrittenSnapshot(file, size, digest.hexdigest())

    def read(self, file: str, digest: str) -> Mapping[str, NDArray[np.float32]]:
        """The vectors as written.

        Raises:
            DamagedSnapshotError: they can't be had any more.
            StorageError: the file could not be read this time.
        """
        try:
            data = (self._root / file).read_bytes()
        except FileNotFoundError:
            raise DamagedSnapshotError(f"the snapshot {file} is gone") from None
        except OSError as error:
            raise StorageError(f"cannot read {file}: {error.strerror or error}") from error
        if hashlib.sha256(data).hexdigest() != digest:
            raise DamagedSnapshotError(f"the snapshot {file} is not what was written")
        return read_vectors(data)

    def remove(self, file: str) -> None:
        """Removing what is not there, or can't be removed, is no error."""
        with contextlib.suppress(OSError):
            (self._root / file).unlink()

    def sweep(self, folder: str, known: set[str]) -> int:
        """Remove what is not `known` of one base model's folder, such as halves from a crash;
        only for the one who writes there. How many files went."""
        doomed = [
            path
            for path in (self._root / folder).glob("*")
            if path.relative_to(self._root).as_posix() not in known
        ]
        for path in doomed:
            with contextlib.suppress(OSError):
                path.unlink()
        return len(doomed)
