"""Making a backup of a home folder and its ledger, while a server works on them."""

from __future__ import annotations

import hashlib
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

from tinsmith.backups.containers import FileEntry, Writer, making
from tinsmith.backups.pins import Pins
from tinsmith.checkpoints.store import MANIFEST, CheckpointStore
from tinsmith.domain.addresses import CheckpointAddress
from tinsmith.domain.errors import InvalidInputError, StorageError, UserError
from tinsmith.ledger.copies import SCHEMA, NamedFiles, leave_out, named_files, save_ledger, seal

SECRETS = ("token-secret", "download-secret")
ATTEMPTS = 3
"""Moments that are tried until one is whole: a file can be made and deleted again while the
ledger is copied."""


@dataclass(frozen=True, slots=True)
class BackedUp:
    num_checkpoints: int
    num_snapshots: int
    num_bytes: int
    left_out: tuple[str, ...]
    """Checkpoints and snapshots that the ledger names and the home folder does not hold, or not
    as they were written."""

    def to_json(self) -> dict[str, Any]:
        return {
            "checkpoints": self.num_checkpoints,
            "snapshots": self.num_snapshots,
            "bytes": self.num_bytes,
            "left_out": list(self.left_out),
        }


@dataclass(frozen=True, slots=True)
class _Moment:
    """A copy of the ledger and where the files are that it names: by what is to be in the backup,
    the file and its SHA-256."""

    ledger: Path
    checkpoints: Mapping[CheckpointAddress, Mapping[str, tuple[Path, str]]]
    snapshots: Mapping[str, tuple[Path, str]]


def back_up(home: Path, ledger: str | Path, target: Path) -> BackedUp:
    """Make a backup that is there whole or not at all, of one moment of the ledger with all files
    that it names then. A server may be running.

    Args:
        ledger: as `Ledger.open` takes it; the copy is a SQLite file in any case.
        target: a new .tar file or folder.

    Raises:
        InvalidInputError: the target exists.
        StorageError: a disk or the database refused; nothing is left behind.
    """
    if target.exists():
        raise InvalidInputError(f"{target} exists already; a backup overwrites nothing")
    try:
        with (
            Pins.of(home) as pins,
            tempfile.TemporaryDirectory(prefix=".", dir=target.parent) as folder,
            making(target) as writer,
        ):
            moment = _moment(ledger, Path(folder, "ledger.db"), pins)
            return _write(writer, moment, home)
    except OSError as error:
        raise StorageError(
            f"the backup cannot be made: {error.strerror or error}. Free space or fix permissions, "
            "then repeat; nothing was kept of this attempt"
        ) from error


def _moment(ledger: str | Path, copy: Path, pins: Pins) -> _Moment:
    moment: _Moment | None = None
    for _ in range(ATTEMPTS):
        # What is there before the ledger's moment or after it is pinned: all that it names, but
        # for what has come and gone in between.
        pins.take()
        copy.unlink(missing_ok=True)
        save_ledger(ledger, copy)
        pins.take()
        named = named_files(copy)
        moment = _found(copy, named, pins)
        if len(moment.checkpoints) == len(named.checkpoints) and (
            len(moment.snapshots) == len(named.snapshots)
        ):
            break
    assert moment is not None
    return moment


def _found(ledger: Path, named: NamedFiles, pins: Pins) -> _Moment:
    checkpoints: dict[CheckpointAddress, Mapping[str, tuple[Path, str]]] = {}
    snapshots: dict[str, tuple[Path, str]] = {}
    for generation in pins.generations():
        store = CheckpointStore(generation / "checkpoints")
        for address, digest in named.checkpoints.items():
            if address not in checkpoints and (files := _files_of(store, address, digest)):
                checkpoints[address] = {
                    path.relative_to(generation).as_posix(): (path, sha256)
                    for path, sha256 in files.items()
                }
        for name, digest in named.snapshots.items():
            path = generation / "snapshots" / name
            if name not in snapshots and path.is_file():
                snapshots[name] = (path, digest)
    return _Moment(ledger, checkpoints, snapshots)


def _files_of(
    store: CheckpointStore, address: CheckpointAddress, digest: str
) -> dict[Path, str] | None:
    """None if the checkpoint is not there, or is another one of that name."""
    folder = store.folder(address)
    try:
        manifest = store.manifest(address)
        if hashlib.sha256((folder / MANIFEST).read_bytes()).hexdigest() != digest:
            return None
    except (UserError, FileNotFoundError):
        return None
    files = {folder / name: entry["sha256"] for name, entry in manifest["files"].items()}
    files[folder / MANIFEST] = digest
    return files if all(path.is_file() for path in files) else None


def _write(writer: Writer, moment: _Moment, home: Path) -> BackedUp:
    files: dict[str, FileEntry] = {}
    checkpoints, snapshots = set[CheckpointAddress](), set[str]()
    for address, parts in moment.checkpoints.items():
        added = {name: writer.add(name, path) for name, (path, _) in parts.items()}
        if all(added[name].sha256 == sha256 for name, (_, sha256) in parts.items()):
            files.update(added)
            checkpoints.add(address)
    for file, (path, sha256) in moment.snapshots.items():
        name = f"snapshots/{file}"
        entry = writer.add(name, path)
        if entry.sha256 == sha256:
            files[name] = entry
            snapshots.add(file)
    for name in SECRETS:
        if (home / name).is_file():
            files[name] = writer.add(name, home / name)
    left_out = _leave_out(moment.ledger, checkpoints, snapshots)
    files["ledger.db"] = writer.add("ledger.db", moment.ledger)
    about = {
        "tinsmith": version("tinsmith"),
        "schema": SCHEMA,
        "created_at": datetime.now(UTC).isoformat(timespec="seconds"),
    }
    writer.finish(about, files)
    num_bytes = sum(entry.bytes for entry in files.values())
    return BackedUp(len(checkpoints), len(snapshots), num_bytes, left_out)


def _leave_out(
    ledger: Path, checkpoints: set[CheckpointAddress], snapshots: set[str]
) -> tuple[str, ...]:
    """Take out of the copy what is not in the backup, which completes it; how a person would call
    what was taken out."""
    named = named_files(ledger)
    lost = [address for address in named.checkpoints if address not in checkpoints]
    lost_files = [file for file in named.snapshots if file not in snapshots]
    if lost or lost_files:
        leave_out(ledger, lost, lost_files)
    seal(ledger)
    return (*map(str, lost), *(f"snapshot {file}" for file in lost_files))
