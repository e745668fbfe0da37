"""A SQLite file that survives power cuts, opened by several threads and processes at once."""

from __future__ import annotations

import os
import sqlite3
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path

from sqlalchemy import Connection, Engine, create_engine, event, exc

from tinsmith.domain.errors import StorageError

BUSY_TIMEOUT_MS = 30_000
"""How long a write waits for another process's."""


class SqliteFile:
    """The file at `path`, which is made, readable by its owner only, if it is not there."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def open(self) -> tuple[Engine, Engine]:
        with self.errors():
            self._path.parent.mkdir(parents=True, exist_ok=True)
            with suppress(FileExistsError):
                # Prompts are private; the files that SQLite makes beside this one take its mode.
                os.close(os.open(self._path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600))
        engine = create_engine(
            f"sqlite:///{self._path}", pool_size=8, max_overflow=-1, hide_parameters=True
        )
        event.listen(engine, "connect", prepare)
        event.listen(engine, "begin", _begin)
        return engine, engine.execution_options(writes=True)

    @contextmanager
    def errors(self) -> Iterator[None]:
        try:
            yield
        except exc.DBAPIError as error:
            original = error.orig if error.orig is not None else error
            raise StorageError(_advice(self._path, original)) from error
        except (sqlite3.Error, OSError) as error:
            raise StorageError(_advice(self._path, error)) from error

    def has_ended(self, connection: Connection) -> bool:
        return not connection.connection.dbapi_connection.in_transaction  # type: ignore[union-attr]

    def copy_to(self, file: Path) -> None:
        """Copy it, as it is at one moment, while others write."""
        if not self._path.is_file():
            raise StorageError(f"there is no ledger at {self._path}; nothing to back up")
        source_url = f"{self._path.resolve().as_uri()}?mode=rw"
        with (
            self.errors(),
            closing(sqlite3.connect(source_url, uri=True)) as source,
            closing(sqlite3.connect(file)) as target,
        ):
            source.execute(f"PRAGMA busy_timeout = {BUSY_TIMEOUT_MS}").close()
            source.backup(target)


def prepare(connection: sqlite3.Connection, _record: object = None) -> None:
    """Set a new connection up: it waits for others' writes, and a power cut loses no commit."""
    # The driver must not begin transactions by itself: it would begin them too late.
    connection.isolation_level = None
    connection.execute(f"PRAGMA busy_timeout = {BUSY_TIMEOUT_MS}").close()
    _keep_a_write_ahead_log(connection)
    for pragma in ("synchronous = FULL", "foreign_keys = ON"):
        connection.execute(f"PRAGMA {pragma}").close()


def _keep_a_write_ahead_log(connection: sqlite3.Connection) -> None:
    # The file remembers it, so only openings of a new file can meet here; but then SQLite fails at
    # once instead of waiting, because each would wait for the other's read lock.
    give_up = time.monotonic() + BUSY_TIMEOUT_MS / 1000
    while True:
        try:
            connection.execute("PRAGMA journal_mode = WAL").close()
            return
        except sqlite3.OperationalError as error:
            if error.sqlite_errorcode != sqlite3.SQLITE_BUSY or time.monotonic() > give_up:
                raise
            time.sleep(0.01)


def _begin(connection: Connection) -> None:
    # A transaction that first reads and then writes can fail in WAL mode for what another has
    # written in between; taking the write lock at once can only wait.
    writes = connection.get_execution_options().get("writes", False)
    connection.exec_driver_sql("BEGIN IMMEDIATE" if writes else "BEGIN")


def _advice(path: Path, error: BaseException) -> str:
    text = str(error)
    kept = "nothing of this request was kept"
    if "disk is full" in text or "No space left" in text:
        return f"the disk that holds {path.name} is full: free some space and repeat; {kept}"
    if "locked" in text or "busy" in text:
        return (
            f"{path.name} stayed locked for {BUSY_TIMEOUT_MS // 1000} s: another process holds it "
            f"(a backup or a database tool?); end that and repeat; {kept}"
        )
    if "readonly" in text or isinstance(error, PermissionError):
        return (
            f"{path.name} cannot be written: make it and its folder writable for the user who "
            f"runs the server; {kept}"
        )
    if "malformed" in text or "not a database" in text:
        return (
            f"{path.name} is damaged or no ledger ({text}): restore a backup, or start with "
            "another --home"
        )
    return f"{path.name} cannot be used ({text}): check the disk and repeat; {kept}"
