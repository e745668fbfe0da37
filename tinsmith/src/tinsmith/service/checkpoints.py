"""The catalogue of checkpoints as their owners see it, and the ways to download one."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import BinaryIO

from tinsmith import config
from tinsmith.checkpoints.store import ADAPTER_CONFIG, ADAPTER_WEIGHTS, CheckpointStore
from tinsmith.domain.addresses import CheckpointAddress
from tinsmith.domain.errors import AccessError, NotFoundError
from tinsmith.domain.records import Caller, Checkpoint
from tinsmith.ledger.ledger import Ledger
from tinsmith.service.archive import tar_gz
from tinsmith.service.signing import Signer
from tinsmith.service.training_checks import check_ttl

PEFT_FILES = (ADAPTER_CONFIG, ADAPTER_WEIGHTS)
"""What a download consists of; optimizer state and manifest stay here."""


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
        return self._ledger.checkpoints(caller.owner, limit=limit, offset=offset)

    def list_of_run(self, caller: Caller, run_id: str) -> tuple[Checkpoint, ...]:
        """All listed checkpoints of a run, newest first. Raises NotFoundError."""
        run = self._ledger.run(run_id)
        if run is None or run.owner != caller.owner:
            raise NotFoundError(f"there is no training run {run_id!r}")
        found, _ = self._ledger.checkpoints(caller.owner, run_id)
        return tuple(found)

    def get(self, caller: Caller, address: CheckpointAddress) -> Checkpoint:
        """The caller's own, or anybody's public one. Raises NotFoundError."""
        checkpoint = self._ledger.visible_checkpoint(address, caller.owner)
        if checkpoint is None:
            raise NotFoundError(f"there is no checkpoint {address}")
        return checkpoint

    def delete(self, caller: Caller, address: CheckpointAddress) -> None:
        """Remove it, bytes and all. Raises NotFoundError unless it is there and the caller's."""
        self._own(caller, address)
        # The row goes first: a crash in between leaves bytes without a name, never a name
        # without bytes.
        self._ledger.delete_checkpoint(address)
        self._store.delete(address)

    def publish(self, caller: Caller, address: CheckpointAddress) -> None:
        """Let everybody who knows the address read it. Raises NotFoundError."""
        self._own(caller, address)
        self._ledger.set_public(address, True)

    def unpublish(self, caller: Caller, address: CheckpointAddress) -> None:
        """Take `publish` back. Raises NotFoundError."""
        self._own(caller, address)
        self._ledger.set_public(address, False)

    def set_ttl(self, caller: Caller, address: CheckpointAddress, ttl_s: int | None) -> None:
        """Expire `ttl_s` seconds from now; None: never. Raises NotFoundError, InvalidInputError."""
        self._own(caller, address)
        check_ttl(ttl_s)
        expires_at = None if ttl_s is None else datetime.now(UTC) + timedelta(seconds=ttl_s)
        self._ledger.set_expiry(address, expires_at)

    def weights_info(self, caller: Caller, path: str) -> Checkpoint:
        """As `get`, by a tinker:// path. Raises InvalidInputError if it is none."""
        return self.get(caller, CheckpointAddress.parse(path))

    def files(self, caller: Caller, address: CheckpointAddress) -> Mapping[str, int]:
        """The PEFT files: relative path -> size in bytes. Raises NotFoundError."""
        self.get(caller, address)
        sizes = self._store.files(address)
        return {path: sizes[path] for path in PEFT_FILES}

    def sign(
        self, caller: Caller, address: CheckpointAddress
    ) -> tuple[tuple[SignedFile, ...], datetime]:
        """One signature per PEFT file, good without any key until the given time."""
        sizes = self.files(caller, address)
        expires = int(time.time() + self._settings.download_url_ttl_s)
        signed = tuple(
            SignedFile(path, size, expires, self._signer.sign(str(address), path, expires))
            for path, size in sizes.items()
        )
        return signed, datetime.fromtimestamp(expires, UTC)

    def open_signed(
        self, address: CheckpointAddress, path: str, expires: int, signature: str
    ) -> tuple[BinaryIO, int]:
        """The file, open for reading, and its size in bytes.

        Raises:
            AccessError: not signed by us, or too late.
            NotFoundError: the checkpoint has gone or expired.
        """
        if not self._signer.is_valid(signature, str(address), path, expires):
            raise AccessError("this download link is not one that this server has signed")
        if time.time() >= expires:
            raise AccessError("this download link has expired; ask for a new one")
        checkpoint = self._ledger.checkpoint(address)
        if checkpoint is not None:  # the owner has signed, and sees it until it expires
            checkpoint = self._ledger.visible_checkpoint(address, checkpoint.owner)
        if checkpoint is None or path not in PEFT_FILES:
            raise NotFoundError(f"there is no file {path!r} of checkpoint {address}")
        size = self._store.files(address)[path]
        return self._store.open(address, path), size

    def archive(self, caller: Caller, address: CheckpointAddress) -> Iterator[bytes]:
        """The PEFT files as one tar.gz, in pieces. Raises NotFoundError before the first piece."""
        sizes = self.files(caller, address)
        made_at = self.get(caller, address).created_at.timestamp()
        return tar_gz(list(sizes.items()), lambda path: self._store.open(address, path), made_at)

    def _own(self, caller: Caller, address: CheckpointAddress) -> None:
        checkpoint = self.get(caller, address)
        if checkpoint.owner != caller.owner:
            raise NotFoundError(f"there is no checkpoint {address} of yours")
