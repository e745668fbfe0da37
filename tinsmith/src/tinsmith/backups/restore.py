"""Making a home folder, and a ledger where it is wanted, of a backup."""

from __future__ import annotations

import shutil
import uuid
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tinsmith.backups.containers import reading, sync_folders, verified
from tinsmith.checkpoints.syncing import sync_folder
from tinsmith.domain.errors import InvalidInputError, StorageError
from tinsmith.ledger.copies import HOLDS_ONE, SCHEMA, begin_anew, holds_ledger, restore_ledger


@dataclass(frozen=True, slots=True)
class Restored:
    created_at: str
    """When the backup was made."""
    num_files: int

    def to_json(self) -> dict[str, Any]:
        return {"backup_created_at": self.created_at, "files": self.num_files}


def restore(source: Path, home: Path, database: str = "") -> Restored:
    """Make a home folder of a backup, whole or not at all. A server on it goes on where the ledger
    stood; no engine of before can write to it.

    Args:
        home: a folder that is not there yet, or an empty one.
        database: a postgresql:// URL for the ledger; empty: a SQLite file in the home folder.

    Raises:
        InvalidInputError: no backup, a damaged one, one of a newer tinsmith; or home or database
            hold something already. Nothing was changed.
        StorageError: a disk or the database refused; nothing was kept.
    """
    if home.exists() and (not home.is_dir() or any(home.iterdir())):
        raise InvalidInputError(f"{home} holds something already; restore into a new folder")
    if database and holds_ledger(database):
        raise InvalidInputError(HOLDS_ONE)
    fresh = home.with_name(f".{home.name}.{uuid.uuid4().hex}.new")
    try:
        with reading(source) as backup:
            about, files = backup.manifest()
            if isinstance(about.get("schema"), int) and about["schema"] > SCHEMA:
                raise InvalidInputError(
                    f"this backup's ledger has schema {about['schema']}, and this tinsmith knows "
                    f"up to {SCHEMA}; use the newer one that made it"
                )
            home.parent.mkdir(parents=True, exist_ok=True)
            fresh.mkdir(0o700)
            for name, entry in files.items():
                verified(backup, name, entry, fresh / name)
        ledger = fresh / "ledger.db"
        begin_anew(ledger)
        if home.exists():
            home.rmdir()
        if database:
            restore_ledger(ledger, database)
            ledger.unlink()
        sync_folders(fresh)
        fresh.rename(home)
        sync_folder(home.parent)
    except OSError as error:
        raise StorageError(
            f"the backup cannot be restored: {error.strerror or error}; nothing was kept in {home}"
        ) from error
    finally:
        shutil.rmtree(fresh, ignore_errors=True)
    return Restored(str(about.get("created_at", "")), len(files))
