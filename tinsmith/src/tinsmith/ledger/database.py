"""Where a ledger can live, and what differs between those places."""

from __future__ import annotations

from contextlib import AbstractContextManager
from pathlib import Path
from typing import Protocol

from sqlalchemy import Connection, Engine

from tinsmith.domain.errors import StorageError
from tinsmith.ledger.sqlite import SqliteFile


class Database(Protocol):
    """Statements are the same for all; opening, waiting and complaining are not."""

    def open(self) -> tuple[Engine, Engine]:
        """Connections whose transactions read, and connections whose transactions write.

        One that reads sees one moment of the ledger throughout. One that writes waits at its
        beginning until no other process writes: what it reads holds until it commits, and what
        commits later has the greater row numbers. A commit that has returned outlasts a power cut.

        Raises:
            StorageError: see `errors`.
        """
        ...

    def errors(self) -> AbstractContextManager[None]:
        """Turns what the database complains of into a StorageError that says what to do."""
        ...

    def has_ended(self, connection: Connection) -> bool:
        """Whether the database has given up the connection's transaction, by itself."""
        ...


def database_of(url_or_path: str | Path) -> Database:
    """The place meant by a path, or by a sqlite:/// or postgresql:// URL.

    Raises:
        StorageError: another kind of database, one that lives in memory, or no URL of its kind.
        InvalidInputError: the driver is not installed.
    """
    text = str(url_or_path)
    scheme, separator, rest = text.partition("://")
    if not separator:
        return SqliteFile(Path(url_or_path))
    if scheme in ("postgresql", "postgres"):
        from tinsmith.ledger.postgresql import PostgresqlDatabase

        return PostgresqlDatabase(text)
    path = rest.removeprefix("/")
    if scheme != "sqlite" or not rest.startswith("/") or path in ("", ":memory:"):
        raise StorageError(  # a foreign URL may hold a password: only its scheme is told
            f"a ledger cannot live at this {scheme}:// URL; use a file, sqlite:///FILE or "
            "postgresql://USER@HOST/NAME"
        )
    return SqliteFile(Path(path))
