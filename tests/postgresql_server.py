"""A real PostgreSQL server for the tests, in a temporary folder, for as long as the session lasts.

Commits do not wait for the disk (fsync is off): what a power cut does is PostgreSQL's own matter,
and no test here could show it.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, NoReturn

import pytest

PATIENCE_S = 60.0
INITDB_OPTIONS = ("--auth=trust", "--encoding=UTF8", "--locale=C", "--no-sync")
ROOT_RUNS_AS = ("postgres", "nobody")
"""The server refuses to be root: whose name to take."""


def absent(what: str) -> NoReturn:
    """Skip the test, or fail it where everything has to be there, as in CI."""
    if os.environ.get("TINSMITH_TESTS_SKIP_NOTHING"):
        pytest.fail(f"{what}, and TINSMITH_TESTS_SKIP_NOTHING is set")
    pytest.skip(what)


@pytest.fixture(scope="session")
def postgresql_server() -> Iterator[str]:
    """The folder of its socket, where the superuser `tests` needs no password."""
    programs = _programs()
    if programs is None:
        absent("PostgreSQL's server is not installed (Debian: apt-get install postgresql)")
    try:
        import psycopg  # noqa: F401
    except ImportError:
        absent("the driver is not installed: pip install 'tinsmith[postgresql]'")
    # Not below pytest's folder: another user has to get in, and a socket's path has to be short.
    folder = Path(tempfile.mkdtemp(prefix="tinsmith-pg-"))
    try:
        with _running(programs, folder):
            yield str(folder)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture
def postgresql_url(postgresql_server: str) -> Iterator[str]:
    """An empty database."""
    with new_database(postgresql_server) as url:
        yield url


_made = 0


@contextmanager
def new_database(server: str) -> Iterator[str]:
    global _made
    _made += 1
    name = f"ledger_{_made}"
    execute(server, f"CREATE DATABASE {name}")
    try:
        yield url_of(server, name)
    finally:
        execute(server, f"DROP DATABASE {name} WITH (FORCE)")


def url_of(server: str, database: str) -> str:
    return f"postgresql://tests@/{database}?host={server}"


def execute(server: str, statement: str) -> list[Any]:
    """As superuser, outside of any transaction; the rows, if there are any."""
    import psycopg

    with psycopg.connect(url_of(server, "postgres"), autocommit=True) as connection:
        cursor = connection.execute(statement.encode())
        return cursor.fetchall() if cursor.description else []


def _programs() -> Path | None:
    """The folder of initdb and postgres. Debian keeps them out of PATH."""
    on_path = shutil.which("initdb")
    found = [Path(on_path).resolve().parent] if on_path else []
    found += sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True)
    return next((folder for folder in found if (folder / "postgres").is_file()), None)


@contextmanager
def _running(programs: Path, folder: Path) -> Iterator[None]:
    user = _user()
    who: dict[str, Any] = {}
    if user is not None:
        shutil.chown(folder, user.pw_name)
        who = {"user": user.pw_uid, "group": user.pw_gid, "extra_groups": []}
    data = folder / "data"
    log = (folder / "log").open("wb")
    with log:
        subprocess.run(
            [programs / "initdb", "-D", data, "-U", "tests", *INITDB_OPTIONS],
            check=True,
            stdout=log,
            stderr=log,
            cwd=folder,
            **who,
        )
        server = subprocess.Popen(
            [programs / "postgres", "-D", data, "-F", "-h", "", "-k", folder],  # no fsync, no TCP
            stdout=log,
            stderr=log,
            cwd=folder,
            **who,
        )
    try:
        _wait_until_it_answers(server, folder)
        yield
    finally:
        server.send_signal(signal.SIGINT)  # without waiting for clients to go
        try:
            server.wait(PATIENCE_S)
        except subprocess.TimeoutExpired:
            server.kill()
            server.wait()


def _user() -> Any:
    """Whose name to take, as the password database has it; None: our own will do."""
    if os.name == "nt" or os.geteuid() != 0:
        return None
    import pwd

    for name in ROOT_RUNS_AS:
        with suppress(KeyError):
            return pwd.getpwnam(name)
    absent("PostgreSQL does not run as root, and there is no user 'postgres' or 'nobody'")


def _wait_until_it_answers(server: subprocess.Popen[bytes], folder: Path) -> None:
    import psycopg

    deadline = time.monotonic() + PATIENCE_S
    while time.monotonic() < deadline and server.poll() is None:
        try:
            execute(str(folder), "SELECT 1")
            return
        except psycopg.OperationalError:
            time.sleep(0.05)
    raise AssertionError(f"PostgreSQL did not start:\n{(folder / 'log').read_text()[-4000:]}")
