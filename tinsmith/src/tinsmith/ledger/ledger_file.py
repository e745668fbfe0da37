"""The database below the ledger: who writes waits his turn, who reads does not."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from typing import TypeVar

from sqlalchemy import Connection

from tinsmith.ledger.database import Database
from tinsmith.ledger.writer import Writer
from tinsmith.telemetry import failure

_T = TypeVar("_T")


class LedgerFile:
    """An open database. What a ledger can do with it is added by topic."""

    def __init__(self, database: Database) -> None:
        """Use `Ledger.open`."""
        self._database = database
        self._engine, writing = database.open()
        self._writer = Writer(writing, database)

    def close(self) -> None:
        """Finish the writes that are under way and let go of the database."""
        self._writer.close()
        self._engine.dispose()

    def _write(self, function: Callable[[Connection], _T]) -> _T:
        return self._writer.write(function)

    def _write_later(self, function: Callable[[Connection], object]) -> None:
        """As `_write`, without waiting; if the disk or the database refuses, the log says so."""
        self._writer.submit(function).add_done_callback(_log_if_failed)

    @contextmanager
    def _read(self) -> Iterator[Connection]:
        """A transaction that sees one moment of the ledger throughout."""
        with self._database.errors(), self._engine.connect() as connection, connection.begin():
            yield connection

    def _repeatedly(self, limit: int, drop: Callable[[Connection, int], int]) -> int:
        num_dropped = 0
        while True:
            num_now = self._write(lambda connection: drop(connection, limit))
            num_dropped += num_now
            if num_now < limit:
                return num_dropped


def _log_if_failed(written: Future[object]) -> None:
    error = written.exception()
    if error is not None:
        failure("write_failed", error)
