"""Whole ledgers, copied between databases: what backups are made of and restored from."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from sqlalchemy import Connection, Table, func, insert, inspect, select, text, update

from tinsmith.domain.addresses import CheckpointAddress
from tinsmith.domain.errors import InvalidInputError, StorageError
from tinsmith.ledger import checkpoint_rows
from tinsmith.ledger.database import Database, database_of
from tinsmith.ledger.ledger import Ledger
from tinsmith.ledger.migrations import MIGRATIONS, bring_up_to_date
from tinsmith.ledger.schema import (
    METADATA,
    checkpoints,
    leases,
    schema_version,
    sessions,
    snapshots,
)
from tinsmith.ledger.sqlite import SqliteFile

SCHEMA = 1 + len(MIGRATIONS)
HOLDS_ONE = "this database holds a ledger already; restore into an empty one"
_ROWS_AT_ONCE = 50


@dataclass(frozen=True, slots=True)
class NamedFiles:
    """What a ledger says there is on disk, with the digests of it."""

    checkpoints: Mapping[CheckpointAddress, str]
    """SHA-256 of the manifest, which holds those of the files."""
    snapshots: Mapping[str, str]
    """By path below the home's snapshots."""


def save_ledger(place: str | Path, file: Path) -> None:
    """Copy the ledger at `place`, which may be in use, to a new SQLite file, as it was at one
    moment. The copy has today's schema; the ledger itself is left as it is. `seal` the copy before
    it is moved.

    Raises:
        StorageError: there is no ledger, it cannot be read, or a newer tinsmith wrote it.
    """
    database = database_of(place)
    if isinstance(database, SqliteFile):
        database.copy_to(file)
    else:
        _save_rows(database, file)
    with _open(file):
        pass  # which has migrated it


def restore_ledger(file: Path, url: str) -> None:
    """Copy a saved ledger to a PostgreSQL database that holds none, all of it or nothing.

    Raises:
        InvalidInputError: the database holds a ledger.
        StorageError: it refused.
    """
    database = database_of(url)
    copy = SqliteFile(file)
    reading, _ = copy.open()
    _, writing = database.open()
    try:
        with (
            copy.errors(),
            database.errors(),
            reading.connect() as source,
            source.begin(),
            writing.connect() as target,
            target.begin(),
        ):
            if _has_tables(target):
                raise InvalidInputError(HOLDS_ONE)
            _copy_rows(source, target)
            for table in METADATA.sorted_tables:
                _count_on(target, table)
    finally:
        reading.dispose()
        writing.dispose()


def holds_ledger(place: str) -> bool:
    """Whether the database at this URL has tables of ours."""
    database = database_of(place)
    reading, _ = database.open()
    try:
        with database.errors(), reading.connect() as connection, connection.begin():
            return _has_tables(connection)
    finally:
        reading.dispose()


def begin_anew(file: Path) -> None:
    """Make a saved ledger one that a server can go on with: today's schema, no engine of old may
    settle anything, and the clients of open sessions have been heard of just now.

    Raises:
        StorageError: it is damaged, or a newer tinsmith wrote it.
    """
    with _open(file) as ledger:
        ledger._write(_begin_anew)
    seal(file)


def named_files(file: Path) -> NamedFiles:
    """What a saved ledger says there is on disk."""
    with _open(file) as ledger, ledger._read() as connection:
        return NamedFiles(
            checkpoints={
                CheckpointAddress.parse(address): digest
                for address, digest in connection.execute(
                    select(checkpoints.c.address, checkpoints.c.digest)
                )
            },
            snapshots={
                file: digest
                for file, digest in connection.execute(select(snapshots.c.file, snapshots.c.digest))
            },
        )


def leave_out(file: Path, addresses: Sequence[CheckpointAddress], files: Sequence[str]) -> None:
    """Drop the rows of these checkpoints and snapshots from a saved ledger."""

    def drop(connection: Connection) -> None:
        for address in addresses:
            checkpoint_rows.delete_checkpoint(connection, address)
        for name in files:
            connection.execute(snapshots.delete().where(snapshots.c.file == name))

    with _open(file) as ledger:
        ledger._write(drop)


def seal(file: Path) -> None:
    """Make the SQLite file whole by itself, with nothing beside it, and check what it holds."""
    database = SqliteFile(file)
    with database.errors(), closing(sqlite3.connect(file)) as connection:
        connection.execute("PRAGMA journal_mode = DELETE").close()
        found = connection.execute("PRAGMA quick_check").fetchone()[0]
    if found != "ok":
        raise StorageError(f"the ledger is damaged: {found}")


@contextmanager
def _open(file: Path) -> Iterator[Ledger]:
    ledger = Ledger.open(file)
    try:
        yield ledger
    finally:
        ledger.close()


def _begin_anew(connection: Connection) -> None:
    now = datetime.now(UTC)
    connection.execute(
        update(leases).values(epoch=leases.c.epoch + 1, holder="restored", acquired_at=now)
    )
    connection.execute(
        update(sessions).where(sessions.c.ended_at.is_(None)).values(last_heard_at=now)
    )


def _save_rows(database: Database, file: Path) -> None:
    reading, _ = database.open()
    copy = SqliteFile(file)
    _, writing = copy.open()
    try:
        with (
            copy.errors(),
            database.errors(),
            reading.connect() as source,
            source.begin(),
            writing.connect() as target,
            target.begin(),
        ):
            if not _has_tables(source):
                raise StorageError("there is no ledger in this database; nothing to back up")
            found = source.execute(select(schema_version.c.version)).scalar_one()
            if found != SCHEMA:
                raise StorageError(
                    f"this ledger has schema {found}, and this tinsmith's is {SCHEMA}: back it up "
                    "with the tinsmith that serves it"
                )
            _copy_rows(source, target)
    finally:
        reading.dispose()
        writing.dispose()


def _has_tables(connection: Connection) -> bool:
    return inspect(connection).has_table(schema_version.name)


def _copy_rows(source: Connection, target: Connection) -> None:
    bring_up_to_date(target)
    target.execute(schema_version.delete())  # it is copied like the others
    for table in METADATA.sorted_tables:
        statement = insert(table)
        rows = source.execute(
            select(table).order_by(*table.primary_key.columns),
            execution_options={"yield_per": _ROWS_AT_ONCE},
        )
        for some in rows.mappings().partitions():
            target.execute(statement, [dict(row) for row in some])


def _count_on(connection: Connection, table: Table) -> None:
    """Row numbers that the database gives go on after those that were copied."""
    number = table.autoincrement_column
    if number is None or table is schema_version:
        return
    last = connection.execute(select(func.max(number))).scalar()
    if last is not None:
        connection.execute(
            text("SELECT setval(pg_get_serial_sequence(:table, :column), :last)"),
            {"table": table.name, "column": number.name, "last": last},
        )
