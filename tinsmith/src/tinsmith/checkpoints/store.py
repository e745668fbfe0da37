"""Checkpoints as plain directories in the open PEFT layout.

    <root>/<run id, ':' as '-'>/<kind>/<name>/
        adapter_config.json         PEFT's settings, with the alpha that was used
        adapter_model.safetensors   A and B of every adapted layer
        optimizer.safetensors       training checkpoints only
        manifest.json               sizes and SHA-256 of the above, written last

Files of an encrypted export carry `.age` behind their names; what is in them we can't read either.

Order of writes: files into a hidden directory beside the target, fsync of each, manifest, rename,
fsync of the parent. A directory without a readable manifest is not a checkpoint.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from filelock import FileLock
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load as load_safetensors
from safetensors.numpy import save as save_safetensors

from tinsmith.checkpoints import encryption
from tinsmith.checkpoints.syncing import make_folder, sync_folder, write_durably
from tinsmith.domain.addresses import CheckpointAddress, CheckpointKind
from tinsmith.domain.errors import InvalidInputError, NotFoundError, StorageError, UserError

FORMAT_VERSION = 1
MANIFEST = "manifest.json"
ADAPTER_CONFIG = "adapter_config.json"
ADAPTER_WEIGHTS = "adapter_model.safetensors"
OPTIMIZER = "optimizer.safetensors"

Arrays = Mapping[str, NDArray[np.generic]]


@dataclass(frozen=True, slots=True)
class WrittenCheckpoint:
    size_bytes: int
    digest: str
    """SHA-256 of the manifest, which holds those of the files."""


class CheckpointStore:
    """Reads and writes the checkpoints of one home folder. Safe for several processes, as long
    as one of them writes a given address: the engine that holds its run."""

    def __init__(self, root: Path) -> None:
        self._root = root
        with _storage_errors(root):
            make_folder(root)

    def write(
        self,
        address: CheckpointAddress,
        *,
        adapter: Arrays,
        adapter_config: Mapping[str, Any],
        optimizer: Arrays | None = None,
        details: Mapping[str, Any] | None = None,
        overwrite: bool = False,
        recipients: Sequence[str] = (),
    ) -> WrittenCheckpoint:
        """Make a checkpoint durable under its address, whole or not at all.

        Args:
            recipients: public keys that every file but the manifest is encrypted to. None: no
                encryption.
            details: free JSON that `manifest()` gives back under the key "details".

        Raises:
            InvalidInputError: the name is taken and `overwrite` is off, or a bad recipient.
            StorageError: the disk refused; nothing is left behind.
        """
        target = self._directory(address)
        if target.exists() and not overwrite:
            raise InvalidInputError(
                f"{address} exists already; choose another name, or save with overwrite=True"
            )
        files = {
            ADAPTER_CONFIG: json.dumps(dict(adapter_config), indent=2, sort_keys=True).encode(),
            ADAPTER_WEIGHTS: save_safetensors(dict(adapter), metadata={"format": "pt"}),
        }
        if optimizer is not None:
            files[OPTIMIZER] = save_safetensors(dict(optimizer), metadata={"format": "pt"})
        if recipients:
            files = {
                name + encryption.SUFFIX: encryption.encrypt(files.pop(name), recipients)
                for name in list(files)
            }
        manifest = json.dumps(
            {
                "format": FORMAT_VERSION,
                "address": str(address),
                "files": {
                    name: {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}
                    for name, data in files.items()
                },
                "details": dict(details or {}),
            },
            indent=2,
        ).encode()
        fresh = target.parent / f".{target.name}.{uuid.uuid4().hex}.new"
        with _storage_errors(target):
            try:
                make_folder(fresh)
                for name, data in [*files.items(), (MANIFEST, manifest)]:
                    write_durably(fresh / name, data)
                sync_folder(fresh)
                self._put_in_place(fresh, target)
            finally:
                shutil.rmtree(fresh, ignore_errors=True)
        size = len(manifest) + sum(len(data) for data in files.values())
        return WrittenCheckpoint(size, hashlib.sha256(manifest).hexdigest())

    def copy(self, source: CheckpointAddress, target: CheckpointAddress) -> WrittenCheckpoint:
        """The same checkpoint under another address; files are shared where the disk can.

        Raises:
            NotFoundError: there is no whole checkpoint at the source.
            StorageError: the disk refused; nothing is left behind.
        """
        manifest = self.manifest(source)
        fresh_manifest = json.dumps({**manifest, "address": str(target)}, indent=2).encode()
        directory = self._directory(target)
        fresh = directory.parent / f".{directory.name}.{uuid.uuid4().hex}.new"
        with _storage_errors(directory):
            try:
                make_folder(fresh)
                for name in manifest["files"]:
                    try:
                        _link_or_copy(self._directory(source) / name, fresh / name)
                    except FileNotFoundError:  # deleted since its manifest was read
                        raise NotFoundError(f"there is no checkpoint {source}") from None
                write_durably(fresh / MANIFEST, fresh_manifest)
                sync_folder(fresh)
                self._put_in_place(fresh, directory)
            finally:
                shutil.rmtree(fresh, ignore_errors=True)
        size = len(fresh_manifest) + sum(one["bytes"] for one in manifest["files"].values())
        return WrittenCheckpoint(size, hashlib.sha256(fresh_manifest).hexdigest())

    def folder(self, address: CheckpointAddress) -> Path:
        """Where the checkpoint's files are, if there is one."""
        return self._directory(address)

    def manifest(self, address: CheckpointAddress) -> dict[str, Any]:
        """The manifest as written.

        Raises:
            NotFoundError: there is no whole checkpoint.
            InvalidInputError: it is not a manifest of ours, or a newer tinsmith's.
        """
        path = self._directory(address) / MANIFEST
        try:
            manifest = json.loads(path.read_bytes())
        except FileNotFoundError:
            raise NotFoundError(f"there is no checkpoint {address}") from None
        except ValueError as error:
            raise _corrupt(address, f"{MANIFEST}: {error}") from error
        version = manifest.get("format") if isinstance(manifest, dict) else None
        if isinstance(version, int) and version > FORMAT_VERSION:
            raise InvalidInputError(
                f"{address} is in checkpoint format {version}; this tinsmith reads up to "
                f"{FORMAT_VERSION}. Use a newer tinsmith."
            )
        if wrong := _what_is_wrong(manifest):
            raise _corrupt(address, f"{MANIFEST}: {wrong}")
        return manifest

    def files(self, address: CheckpointAddress) -> dict[str, int]:
        """Relative path -> size in bytes of everything in the checkpoint, manifest included."""
        manifest = self.manifest(address)
        sizes = {name: entry["bytes"] for name, entry in manifest["files"].items()}
        try:
            sizes[MANIFEST] = (self._directory(address) / MANIFEST).stat().st_size
        except FileNotFoundError:  # deleted since it was read
            raise NotFoundError(f"there is no checkpoint {address}") from None
        return sizes

    def open(self, address: CheckpointAddress, relative_path: str) -> BinaryIO:
        """One of `files(address)`, for reading; any other path is a NotFoundError."""
        if relative_path not in self.files(address):
            raise NotFoundError(f"checkpoint {address} has no file {relative_path!r}")
        try:
            return (self._directory(address) / relative_path).open("rb")
        except FileNotFoundError:
            raise _corrupt(address, f"{relative_path} is missing") from None

    def read_adapter(self, address: CheckpointAddress) -> tuple[Arrays, dict[str, Any]]:
        """The adapter's arrays and its PEFT settings.

        Raises:
            NotFoundError: no such checkpoint.
            InvalidInputError: it is encrypted, or its bytes are not those that were written.
        """
        if ADAPTER_CONFIG not in self.manifest(address)["files"]:
            raise InvalidInputError(
                f"{address} is encrypted to keys that this server does not have; it can only be "
                "downloaded. Save it without age_encryption_recipients to use it here"
            )
        config = json.loads(self._read_verified(address, ADAPTER_CONFIG))
        return self._read_arrays(address, ADAPTER_WEIGHTS), config

    def read_optimizer(self, address: CheckpointAddress) -> Arrays:
        """As `read_adapter`; InvalidInputError if the checkpoint was saved without optimizer."""
        if OPTIMIZER not in self.manifest(address)["files"]:
            raise InvalidInputError(
                f"{address} holds no optimizer state; load it without, or use a training checkpoint"
            )
        return self._read_arrays(address, OPTIMIZER)

    def delete(self, address: CheckpointAddress) -> None:
        """Remove the checkpoint's bytes. Deleting what is not there is no error."""
        target = self._directory(address)
        doomed = target.parent / f".{target.name}.{uuid.uuid4().hex}.gone"
        with _storage_errors(target):
            try:
                target.rename(doomed)
            except FileNotFoundError:
                return
            sync_folder(target.parent)
            shutil.rmtree(doomed, ignore_errors=True)

    def sweep(self, is_known: Callable[[CheckpointAddress], bool]) -> int:
        """Finish what a crash interrupted, and remove what nobody can reach; call once, before
        any engine writes.

        Args:
            is_known: whether the catalogue has the address. Bytes that it does not have are of a
                save that was never recorded, or of a checkpoint that was being deleted.

        Returns:
            how many left-over directories went.

        Raises:
            StorageError: a manifest could not be read for want of permission or a healthy disk;
                its checkpoint is left as it is.
        """
        with self.unswept():
            return self._sweep(is_known)

    @contextmanager
    def unswept(self) -> Iterator[None]:
        """Nothing is swept meanwhile: for those who write a checkpoint and then its row while a
        server may start. Raises StorageError if the home folder can't be used."""
        with _storage_errors(self._root), FileLock(self._root / ".lock"):
            yield

    def _sweep(self, is_known: Callable[[CheckpointAddress], bool]) -> int:
        num_removed = 0
        for leftover in list(self._root.glob("*/*/.*")):
            name = leftover.name.lstrip(".").rsplit(".", 2)[0]
            target = leftover.parent / name
            if leftover.name.endswith(".old") and not target.exists():
                leftover.rename(target)
            else:
                shutil.rmtree(leftover, ignore_errors=True)
                num_removed += 1
        for kind in CheckpointKind:
            for directory in list(self._root.glob(f"*/{kind.value}/*")):
                if not directory.is_dir():
                    continue
                address = self._address_in(directory)
                if address is None or not is_known(address):
                    shutil.rmtree(directory, ignore_errors=True)
                    num_removed += 1
        return num_removed

    def _address_in(self, directory: Path) -> CheckpointAddress | None:
        """The address that the directory's manifest names, if it leads here. The manifest's
        format does not matter: a newer tinsmith's checkpoint has an address as well."""
        path = directory / MANIFEST
        try:
            manifest = json.loads(path.read_bytes())
            address = CheckpointAddress.parse(manifest["address"])
            return address if self._directory(address) == directory else None
        except (FileNotFoundError, ValueError, KeyError, TypeError, AttributeError, UserError):
            return None
        except OSError as error:
            raise StorageError(f"cannot read {path}: {error.strerror or error}") from error

    def _directory(self, address: CheckpointAddress) -> Path:
        run = address.run_id.replace(":", "-")
        if "/" in run or "\\" in run or run.startswith("."):
            raise NotFoundError(f"there is no checkpoint {address}")
        return self._root / run / address.kind.value / address.name

    def _put_in_place(self, fresh: Path, target: Path) -> None:
        """If the disk refuses, what was there before is there again."""
        old = target.parent / f".{target.name}.{uuid.uuid4().hex}.old"
        if target.exists():
            target.rename(old)
        try:
            fresh.rename(target)
            sync_folder(target.parent)
        except OSError:
            with suppress(OSError):  # `sweep` finishes what the disk refuses here as well
                if target.exists():
                    target.rename(fresh)
                if old.exists():
                    old.rename(target)
            raise
        shutil.rmtree(old, ignore_errors=True)

    def _read_verified(self, address: CheckpointAddress, name: str) -> bytes:
        entry = self.manifest(address)["files"].get(name)
        try:
            data = (self._directory(address) / name).read_bytes()
        except FileNotFoundError:
            data = b""
        if entry is None or hashlib.sha256(data).hexdigest() != entry["sha256"]:
            raise _corrupt(address, f"{name} does not match its manifest")
        return data

    def _read_arrays(self, address: CheckpointAddress, name: str) -> Arrays:
        try:
            return load_safetensors(self._read_verified(address, name))
        except SafetensorError as error:
            raise _corrupt(address, f"{name}: {error}") from error


def _corrupt(address: CheckpointAddress, what: str) -> InvalidInputError:
    return InvalidInputError(
        f"checkpoint {address} is corrupt: {what}. Use another checkpoint of the run."
    )


def _what_is_wrong(manifest: object) -> str | None:
    """None for a manifest as `write` makes them."""
    if not isinstance(manifest, dict):
        return f"expected an object, got {type(manifest).__name__}"
    if type(manifest.get("format")) is not int:
        return f"format is {manifest.get('format')!r}; expected a number"
    files = manifest.get("files")
    if not isinstance(files, dict):
        return f"files is {type(files).__name__}; expected an object"
    for name, entry in files.items():
        if (
            not isinstance(entry, dict)
            or type(entry.get("bytes")) is not int
            or not isinstance(entry.get("sha256"), str)
        ):
            return f"files[{name!r}] is {entry!r}; expected its bytes and sha256"
    names = {name.removesuffix(encryption.SUFFIX) for name in files}
    if missing := {ADAPTER_CONFIG, ADAPTER_WEIGHTS} - names:
        return f"files lacks {', '.join(sorted(missing))}"
    return None


def _link_or_copy(source: Path, target: Path) -> None:
    # A checkpoint's files are never written again, so that two may share one.
    try:
        os.link(source, target)
    except OSError:  # this file system has no hard links
        write_durably(target, source.read_bytes())


@contextmanager
def _storage_errors(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise StorageError(
            f"cannot write {path.name}: {error.strerror or error}. Free space or fix permissions "
            "of the home folder, then repeat; nothing was kept of this attempt."
        ) from error
