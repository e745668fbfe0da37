"""The catalogue of checkpoints as their owners see it, and the ways to download one."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import BinaryIO

from tinsmith import config
from tinsmith.checkpoints.store import CheckpointStore
from tinsmith.domain.addresses import CheckpointAddress
from tinsmith.domain.errors import NotFoundError
from tinsmith.domain.records import Caller, Checkpoint
from tinsmith.ledger.ledger import Ledger
from tinsmith.service.signing import Signer


@dataclass(frozen=True, slots=True)
class SignedFile:
    """What a download URL must carry besides the address: who holds it may fetch the file."""

    path: str
    size_bytes: int
    expires: int
    """Seconds since 1970, UTC."""
    signature: str


class Checkpoints:
    def __init__(
        self, ledger: Ledger, store: CheckpointStore, signer: Signer, settings: config.Service
    ) -> None:
        self._ledger = ledger
        self._store = store
        self._signer = signer
        self._settings = settings

    def list(self, caller: Caller, *, limit: int, offset: int) -> tuple[list[Checkpoint], int]:
        """One page of the caller's, newest first, and how many there are in all."""
        raise NotImplementedError

    def list_of_run(self, caller: Caller, run_id: str) -> tuple[Checkpoint, ...]:
        """All listed checkpoints of a run, newest first. Raises NotFoundError."""
        raise NotImplementedError

    def get(self, caller: Caller, address: CheckpointAddress) -> Checkpoint:
        """The caller's own, or anybody's public one. Raises NotFoundError."""
        raise NotImplementedError

    def delete(self, caller: Caller, address: CheckpointAddress) -> None:
        """Remove it, bytes and all. Raises NotFoundError unless it is there and the caller's."""
        raise NotImplementedError

    def publish(self, caller: Caller, address: CheckpointAddress) -> None:
        """Let everybody who knows the address read it. Raises NotFoundError."""
        raise NotImplementedError

    def unpublish(self, caller: Caller, address: CheckpointAddress) -> None:
        """Take `publish` back. Raises NotFoundError."""
        raise NotImplementedError

    def set_ttl(self, caller: Caller, address: CheckpointAddress, ttl_s: int | None) -> None:
        """Expire `ttl_s` seconds from now; None: never. Raises NotFoundError, InvalidInputError."""
        raise NotImplementedError

    def weights_info(self, caller: Caller, path: str) -> Checkpoint:
        """As `get`, by a tinker:// path. Raises InvalidInputError if it is none."""
        return self.get(caller, CheckpointAddress.parse(path))

    def files(self, caller: Caller, address: CheckpointAddress) -> Mapping[str, int]:
        """The PEFT files: relative path -> size in bytes. Raises NotFoundError."""
        raise NotImplementedError

    def sign(
        self, caller: Caller, address: CheckpointAddress
    ) -> tuple[tuple[SignedFile, ...], datetime]:
        """One permission per PEFT file, good without any key until the given time."""
        raise NotImplementedError

    def open_signed(
        self, address: CheckpointAddress, path: str, expires: int, signature: str
    ) -> tuple[BinaryIO, int]:
        """The file, open for reading, and its size in bytes.

        Raises:
            AccessError: not signed by us, or too late.
            NotFoundError: the checkpoint has gone.
        """
        raise NotImplementedError

    def archive(self, caller: Caller, address: CheckpointAddress) -> Iterator[bytes]:
        """The PEFT files as one tar.gz, in pieces. Raises NotFoundError before the first piece."""
        raise NotImplementedError
