"""Files for the vectors of runs that have to leave memory for a while.

They are worth something only to the engine that wrote them, as long as it lives: nothing is
flushed to the disk, and what an earlier engine left is removed. The format is safetensors.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import shutil
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open

from tinsmith.checkpoints.flat_vectors import Vectors, as_bytes, pieces
from tinsmith.domain.errors import ServiceError, StorageError


class DamagedFileError(ServiceError):
    """A file is gone or does not hold what was written."""


@dataclass(frozen=True, slots=True)
class AsideFile:
    """A file and what it must hold."""

    path: Path
    checksums: Mapping[str, int]
    """CRC-32 of each vector. Kept here and not in the file, so that no other file can pass."""


class AsideFiles:
    """A folder that belongs to one engine alone."""

    def __init__(self, folder: Path) -> None:
        """Empties the folder; it is made when the first file is."""
        self._folder = folder
        self.clear()

    def clear(self) -> None:
        """Remove all files. What can't be removed is no obstacle."""
        shutil.rmtree(self._folder, ignore_errors=True)

    def write(self, run_id: str, vectors: Vectors) -> AsideFile:
        """Write a run's file, whole or not at all, for the owner's eyes only.

        Streams from the vectors' own memory: this is called when memory is short.

        Raises:
            StorageError: the disk refused; nothing is left behind.
        """
        path = self._folder / f"{file_name(run_id)}.safetensors"
        fresh = path.with_suffix(".new")
        try:
            self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | getattr(os, "O_BINARY", 0)
            with os.fdopen(os.open(fresh, flags, 0o600), "wb") as file:
                for piece in pieces(vectors):
                    file.write(piece)
            fresh.replace(path)
        except OSError as error:
            with contextlib.suppress(OSError):
                fresh.unlink()
            raise StorageError(
                f"run {run_id} can't be put aside in a file: {error.strerror or error}"
            ) from error
        return AsideFile(path, {name: zlib.crc32(as_bytes(v)) for name, v in vectors.items()})

    def read(self, file: AsideFile) -> dict[str, NDArray[np.float32]]:
        """The vectors as written, in memory of their own.

        Raises:
            DamagedFileError: they can't be had any more.
            StorageError: the file could not be read this time.
        """
        try:
            with safe_open(file.path, framework="numpy") as tensors:
                vectors = {name: np.array(tensors.get_tensor(name)) for name in file.checksums}
        except FileNotFoundError:
            raise DamagedFileError("its file is gone") from None
        except SafetensorError as error:
            raise DamagedFileError(f"its file is damaged: {error}") from error
        except OSError as error:
            raise StorageError(
                f"can't read {file.path.name}: {error.strerror or error}; repeat the request"
            ) from error
        for name, checksum in file.checksums.items():
            if zlib.crc32(as_bytes(vectors[name])) != checksum:
                raise DamagedFileError(f"its file is damaged: {name} is not what was written")
        return vectors

    def remove(self, file: AsideFile) -> None:
        """Removing what is not there, or can't be removed, is no error: the run has moved on."""
        with contextlib.suppress(OSError):
            file.path.unlink()


def file_name(text: str) -> str:
    """A name for a file or folder that stands for any text: readable, and never another's."""
    digest = hashlib.sha256(text.encode()).hexdigest()[:12]
    return f"{re.sub(r'[^A-Za-z0-9_-]+', '-', text)[:80]}-{digest}"
