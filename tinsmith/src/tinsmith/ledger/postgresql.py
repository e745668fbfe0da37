"""A PostgreSQL database, opened by several threads and processes at once, here or elsewhere."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from sqlalchemy import Connection, Engine, create_engine, event, exc, text

from tinsmith.domain.errors import InvalidInputError, StorageError

try:
    import psycopg
    from psycopg.conninfo import conninfo_to_dict
    from psycopg.pq import TransactionStatus
except ImportError as error:
    raise InvalidInputError(
        "a ledger in PostgreSQL needs a driver: pip install 'tinsmith[postgresql]'"
    ) from error

WRITE_LOCK = 7_310_301_935_421_607_283
"""The advisory lock of whoever writes: any number that other programs do not use."""
LOCK_TIMEOUT_MS = 30_000
"""How long a write waits for another process's."""
_IDLE_TIMEOUT_MS = 60_000
_PATIENCE = {
    # How soon a server that has vanished is noticed. What the URL or libpq's own variables say
    # goes before.
    "connect_timeout": "10",
    "keepalives_idle": "30",
    "keepalives_interval": "10",
    "keepalives_count": "3",
    "tcp_user_timeout": "30000",
}


class PostgresqlDatabase:
    """The database that a libpq URL names; what the URL leaves out comes from libpq's environment
    variables, service file and password file."""

    def __init__(self, url: str) -> None:
        try:
            self._parameters = conninfo_to_dict(url)
        except psycopg.Error:  # its message, and its traceback, show the URL with the password
            raise StorageError(
                "this postgresql:// URL cannot be read; it has to look like "
                "postgresql://USER@HOST:PORT/NAME?PARAMETER=VALUE, special characters as %XX"
            ) from None

    def open(self) -> tuple[Engine, Engine]:
        engine = create_engine(
            "postgresql+psycopg://",
            creator=self._connect,
            pool_size=8,
            max_overflow=8,
            pool_pre_ping=True,  # connections end when a server restarts or another takes over
            hide_parameters=True,
        )
        event.listen(engine, "begin", _begin)
        return (
            engine.execution_options(isolation_level="REPEATABLE READ", postgresql_readonly=True),
            # Each statement sees what was committed before it, so what the lock was waited for.
            engine.execution_options(isolation_level="READ COMMITTED", writes=True),
        )

    @contextmanager
    def errors(self) -> Iterator[None]:
        try:
            yield
        except exc.DBAPIError as error:
            if not isinstance(error.orig, psycopg.Error):  # of another database, in a copy
                raise
            _raise(self._name, error.orig, error)
        except psycopg.Error as error:
            _raise(self._name, error, error)
        except exc.TimeoutError as error:
            raise StorageError(
                f"all connections to {self._name} are busy: repeat in a while; nothing of this "
                "request was kept"
            ) from error

    def has_ended(self, connection: Connection) -> bool:
        if connection.invalidated:
            return True
        driver: Any = connection.connection.dbapi_connection
        status = driver.info.transaction_status
        return status in (TransactionStatus.IDLE, TransactionStatus.UNKNOWN)

    @property
    def _name(self) -> str:
        """For people: without user, password and parameters."""
        host = self._parameters.get("host") or os.environ.get("PGHOST") or "this machine"
        name = self._parameters.get("dbname") or os.environ.get("PGDATABASE") or "of the user"
        return f"the PostgreSQL database {name} on {host}"

    def _connect(self) -> psycopg.Connection[Any]:
        patience = {
            name: value
            for name, value in _PATIENCE.items()
            if not (name == "connect_timeout" and "PGCONNECT_TIMEOUT" in os.environ)
        }
        connection = psycopg.connect(
            **{"fallback_application_name": "tinsmith", **patience, **self._parameters},  # type: ignore[arg-type]
            client_encoding="utf8",
            autocommit=True,
        )
        encoding = connection.info.parameter_status("server_encoding")
        if encoding != "UTF8":
            connection.close()
            raise StorageError(
                f"{self._name} keeps text as {encoding}; make one with ENCODING 'UTF8'"
            )
        connection.execute(
            # Nobody waits for ever for the lock, nor for one who has gone away with it. A server
            # whose commits do not wait for the disk is told to wait for ours.
            """SELECT set_config('lock_timeout', %s, false),
                      set_config('idle_in_transaction_session_timeout', %s, false),
                      set_config('synchronous_commit',
                                 CASE current_setting('synchronous_commit') WHEN 'off' THEN 'on'
                                 ELSE current_setting('synchronous_commit') END, false)""",
            (str(LOCK_TIMEOUT_MS), str(_IDLE_TIMEOUT_MS)),
        ).close()
        connection.autocommit = False
        return connection


def _begin(connection: Connection) -> None:
    # Held until the commit is visible to all: writers come one after the other.
    if connection.get_execution_options().get("writes", False):
        connection.execute(_TAKE_WRITE_LOCK)


_TAKE_WRITE_LOCK = text(f"SELECT pg_advisory_xact_lock({WRITE_LOCK})")


def _raise(name: str, error: BaseException, cause: BaseException) -> None:
    state = getattr(error, "sqlstate", None) or ""
    if state in ("22021", "54000") or "cannot contain NUL" in str(error):
        raise InvalidInputError(
            "a text in this request holds the character 0 or is too long to be looked up by; "
            "a ledger in PostgreSQL keeps neither"
        ) from cause
    raise StorageError(_advice(name, state, error)) from cause


def _advice(name: str, state: str, error: BaseException) -> str:
    kept = "nothing of this request was kept"
    if state == "53100":
        return f"the disk of {name} is full: free some space and repeat; {kept}"
    if state == "55P03":
        return (
            f"{name} stayed locked for {LOCK_TIMEOUT_MS // 1000} s: another process holds it "
            f"(a database tool?); end that and repeat; {kept}"
        )
    if state == "25006":
        return (
            f"{name} takes no writes (a standby?): give all hosts in the URL, with "
            f"target_session_attrs=read-write; {kept}"
        )
    first_line = str(error).partition("\n")[0]
    if not state or state.startswith(("08", "57P")):
        return (
            f"{name} cannot be reached, or the connection was lost ({first_line}): start it and "
            "repeat; whether the last request was kept is not known, and repeating it is safe"
        )
    if state.startswith(("28", "3D", "42501")):
        return f"{name} does not let us in ({first_line}): check user, password, name and rights"
    return f"{name} cannot be used ({first_line}): see the server's log and repeat; {kept}"
