"""The catalogue of checkpoints as their owners see it, and the ways to download one."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import BinaryIO

from tinsmith import config
from tinsmith.checkpoints import encryption
from tinsmith.checkpoints.store import ADAPTER_CONFIG, ADAPTER_WEIGHTS, CheckpointStore
from tinsmith.domain.addresses import CheckpointAddress, CheckpointKind
from tinsmith.domain.adopted_runs import COPIED, ended_run
from tinsmith.domain.errors import AccessError, NotFoundError
from tinsmith.domain.records import Caller, Checkpoint, StorageUse
from tinsmith.ledger.ledger import Ledger
from tinsmith.service.archive import tar_gz
from tinsmith.service.quotas import Quotas
from tinsmith.service.signing import Signer
from tinsmith.service.training_checks import check_ttl

PEFT_FILES = (ADAPTER_CONFIG, ADAPTER_WEIGHTS)
"""What a download consists of, unless it is of a training checkpoint: then of everything, so that
an import can go on from it."""


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
        self,
        ledger: Ledger,
        store: CheckpointStore,
        signer: Signer,
        settings: config.Service,
        quotas: Quotas,
    ) -> None:
        self._ledger = ledger
        self._store = store
        self._signer = signer
        self._settings = settings
        self._quotas = quotas

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

    def storage_use(self, caller: Caller, project_id: str | None = None) -> Sequence[StorageUse]:
        """What the caller's checkpoints take on disk by project, or those of one project."""
        return self._ledger.storage_use(caller.owner, project_id)

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
        """What a download consists of: relative path -> size in bytes. Raises NotFoundError."""
        self.get(caller, address)
        return self._downloadable(address)

    def sign(
        self, caller: Caller, address: CheckpointAddress
    ) -> tuple[tuple[SignedFile, ...], datetime]:
        """One signature per file, good without any key until the given time."""
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
        size = None if checkpoint is None else self._downloadable(address).get(path)
        if size is None:
            raise NotFoundError(f"there is no file {path!r} of checkpoint {address}")
        return self._store.open(address, path), size

    def archive(self, caller: Caller, address: CheckpointAddress) -> Iterator[bytes]:
        """The files as one tar.gz, in pieces. Raises NotFoundError before the first piece."""
        sizes = self.files(caller, address)
        made_at = self.get(caller, address).created_at.timestamp()
        return tar_gz(list(sizes.items()), lambda path: self._store.open(address, path), made_at)

    def copy(
        self,
        caller: Caller,
        path: str,
        *,
        project_id: str,
        ttl_s: int | None = None,
        idempotency_key: str | None = None,
    ) -> CheckpointAddress:
        """A copy of the caller's own or a public checkpoint, of the same kind and name, that
        belongs to the caller. Its run takes no work; runs may start from it. A repeat with the
        same idempotency key gets the first copy's address.

        Raises:
            InvalidInputError: not an address, a ttl out of range, or no room in the quota.
            NotFoundError: no such checkpoint.
            BusyError: there is no room on the disk for now.
        """
        if idempotency_key is not None:
            made = self._ledger.adopted_before(caller.owner, idempotency_key)
            if made is not None:
                return made
        check_ttl(ttl_s)
        source = self.get(caller, CheckpointAddress.parse(path))
        if not source.is_listed:
            raise NotFoundError(f"{source.address} has no name; save it under one, then copy")
        self._quotas.check_stored(caller.owner, source.size_bytes)
        self._quotas.check_space()
        expires_at = None if ttl_s is None else datetime.now(UTC) + timedelta(seconds=ttl_s)
        run, address = ended_run(
            caller.owner, source.base_model, source.lora, source.address.kind, source.address.name
        )
        written = self._store.copy(source.address, address)
        row = replace(
            source,
            address=address,
            owner=caller.owner,
            created_at=run.created_at,
            expires_at=expires_at,
            size_bytes=written.size_bytes,
            digest=written.digest,
            is_public=False,
        )
        try:
            self._ledger.adopt(
                run, row, how=COPIED, project_id=project_id, idempotency_key=idempotency_key
            )
        except BaseException:
            self._store.delete(address)
            raise
        return address

    def _downloadable(self, address: CheckpointAddress) -> Mapping[str, int]:
        sizes = self._store.files(address)
        if address.kind is CheckpointKind.TRAINING:
            return sizes
        return {
            path: size
            for path, size in sizes.items()
            if path.removesuffix(encryption.SUFFIX) in PEFT_FILES
        }

    def _own(self, caller: Caller, address: CheckpointAddress) -> None:
        checkpoint = self.get(caller, address)
        if checkpoint.owner != caller.owner:
            raise NotFoundError(f"there is no checkpoint {address} of yours")
