from __future__ import annotations

import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import contextmanager

import psycopg
import pytest
from sqlalchemy import text
from tinsmith.domain.errors import InvalidInputError, StorageError
from tinsmith.domain.ops import AdamParams, OptimStep
from tinsmith.domain.records import Run
from tinsmith.ledger import postgresql
from tinsmith.ledger.ledger import Ledger

from tests.postgresql_server import absent

MODEL = "org/tiny"
STEP = OptimStep(AdamParams())


@pytest.fixture
def ledger_place(postgresql_url: str) -> str:
    """Only PostgreSQL's here."""
    return postgresql_url


@contextmanager
def plain_connection(url: str) -> Iterator[psycopg.Connection]:
    with psycopg.connect(url, autocommit=True) as connection:
        yield connection


def end_connections(url: str) -> None:
    """What a server does to all others when it restarts."""
    with plain_connection(url) as connection:
        connection.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
            "WHERE datname = current_database() AND pid <> pg_backend_pid()"
        )


def test_who_writes_holds_up_other_writers_and_no_readers(
    ledger: Ledger, ledger_place: str, run: Run
):
    """So that what commits later has the greater row number."""
    other = Ledger.open(ledger_place)
    started, go_on = threading.Event(), threading.Event()

    def hold(connection) -> None:
        started.set()
        assert go_on.wait(30)

    with ThreadPoolExecutor(3) as pool:
        held = pool.submit(ledger._write, hold)
        assert started.wait(30)
        first = pool.submit(ledger.append, run.run_id, 1, STEP, owner="anna", base_model=MODEL)
        session = pool.submit(other.create_session, "boris")
        assert not wait([first, session], timeout=0.5).done
        assert [record.seq_id for record in other.pending(MODEL)] == [0]  # who reads waits for none
        go_on.set()
        for future in (held, first, session):
            future.result(30)
    other.close()


def test_connections_that_were_ended_are_made_anew(ledger: Ledger, ledger_place: str, run: Run):
    ledger.append(run.run_id, 1, STEP, owner="anna", base_model=MODEL)
    end_connections(ledger_place)

    assert len(ledger.pending(MODEL)) == 2
    assert ledger.append(run.run_id, 2, STEP, owner="anna", base_model=MODEL)


def test_a_write_whose_connection_is_lost_is_told_as_failed_and_can_be_repeated(
    ledger: Ledger, ledger_place: str, run: Run
):
    def cut(connection) -> None:
        connection.execute(text("UPDATE runs SET is_corrupted = true"))
        end_connections(ledger_place)
        connection.execute(text("SELECT 1"))

    with pytest.raises(StorageError, match="repeating it is safe"):
        ledger._write(cut)

    found = ledger.run(run.run_id)
    assert found is not None and not found.is_corrupted
    assert ledger.append(run.run_id, 1, STEP, owner="anna", base_model=MODEL)


def test_a_commit_that_was_not_confirmed_is_told_as_failed(
    ledger: Ledger, ledger_place: str, run: Run
):
    with pytest.raises(StorageError, match="repeating it is safe"):
        ledger._write(lambda connection: end_connections(ledger_place))

    assert ledger.append(run.run_id, 1, STEP, owner="anna", base_model=MODEL)


def test_a_lock_that_somebody_keeps_is_told(ledger_place: str, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(postgresql, "LOCK_TIMEOUT_MS", 100)
    ledger = Ledger.open(ledger_place)
    with plain_connection(ledger_place) as connection:
        connection.execute("SELECT pg_advisory_lock(%s)", (postgresql.WRITE_LOCK,))
        with pytest.raises(StorageError, match="another process holds it"):
            ledger.create_session("anna")

    assert ledger.create_session("anna")
    ledger.close()


def test_a_standby_is_told_as_one(ledger: Ledger, ledger_place: str):
    with plain_connection(ledger_place) as connection:
        name = connection.info.dbname
        connection.execute(f"ALTER DATABASE {name} SET default_transaction_read_only = on".encode())
    end_connections(ledger_place)

    with pytest.raises(StorageError, match="target_session_attrs=read-write"):
        ledger.create_session("anna")
    assert ledger.sessions("anna", limit=1) == []


def test_commits_wait_for_the_disk_also_where_the_server_would_not(
    ledger: Ledger, ledger_place: str
):
    with plain_connection(ledger_place) as connection:
        name = connection.info.dbname
        connection.execute(f"ALTER DATABASE {name} SET synchronous_commit = off".encode())
    end_connections(ledger_place)

    with ledger._read() as connection:
        assert connection.execute(text("SHOW synchronous_commit")).scalar() == "on"


def test_a_text_that_cannot_be_kept_is_refused_for_good(ledger: Ledger, run: Run):
    with pytest.raises(InvalidInputError, match="character 0"):
        ledger.create_session("anna", display_name="a\0b")
    with pytest.raises(InvalidInputError, match="too long"):
        ledger.create_session("anna", idempotency_key="".join(map(chr, range(300, 9000))))
    assert ledger.append(run.run_id, 1, STEP, owner="anna", base_model=MODEL)


@pytest.mark.parametrize(
    "url",
    [
        "postgresql://anna:s3cret@127.0.0.1:1/ledger",
        "postgresql://127.0.0.1:1/ledger?user=anna&password=s3cret",
        "postgresql://anna:s3cret@127.0.0.1:bad/ledger",
        "postgresql://anna:s3cret@[127.0.0.1/ledger",
        "mysql://anna:s3cret@127.0.0.1/ledger",
    ],
)
def test_a_password_in_the_url_is_in_no_message(url: str, capfd: pytest.CaptureFixture[str]):
    program = (
        "import sys, traceback\n"
        "from tinsmith.domain.errors import StorageError\n"
        "from tinsmith.ledger.ledger import Ledger\n"
        "try:\n    Ledger.open(sys.stdin.read())\n"
        "except StorageError:\n    traceback.print_exc()\n"
    )
    subprocess.run([sys.executable, "-c", program], input=url.encode(), check=True)

    told = capfd.readouterr().err
    assert "StorageError" in told
    assert "s3cret" not in told


def test_libpqs_own_variables_are_heeded(
    ledger: Ledger, ledger_place: str, monkeypatch: pytest.MonkeyPatch
):
    session = ledger.create_session("anna")
    with plain_connection(ledger_place) as connection:
        info = connection.info
        monkeypatch.setenv("PGHOST", info.host)
        monkeypatch.setenv("PGUSER", info.user)
        monkeypatch.setenv("PGDATABASE", info.dbname)

    again = Ledger.open("postgresql://")
    assert again.session(session.session_id) == session
    again.close()


def test_a_database_in_another_encoding_is_refused(postgresql_server: str, ledger_place: str):
    with plain_connection(ledger_place) as connection:
        connection.execute("CREATE DATABASE latin ENCODING 'LATIN1' TEMPLATE template0")
    try:
        with pytest.raises(StorageError, match="LATIN1; make one with ENCODING 'UTF8'"):
            Ledger.open(f"postgresql://tests@/latin?host={postgresql_server}")
    finally:
        with plain_connection(ledger_place) as connection:
            connection.execute("DROP DATABASE latin WITH (FORCE)")


def test_without_the_driver_the_message_names_the_extra():
    program = (
        "import sys\n"
        "sys.modules['psycopg'] = None\n"
        "from tinsmith.domain.errors import InvalidInputError\n"
        "from tinsmith.ledger.ledger import Ledger\n"
        "try:\n    Ledger.open('postgresql://host/db')\n"
        "except InvalidInputError as error:\n    print(error)\n"
    )
    told = subprocess.run(
        [sys.executable, "-c", program], check=True, capture_output=True, text=True
    ).stdout
    assert "pip install 'tinsmith[postgresql]'" in told


def test_a_missing_server_is_a_failure_where_nothing_may_be_skipped(
    monkeypatch: pytest.MonkeyPatch,
):
    monkeypatch.delenv("TINSMITH_TESTS_SKIP_NOTHING", raising=False)
    with pytest.raises(pytest.skip.Exception, match="no server"):
        absent("no server")
    monkeypatch.setenv("TINSMITH_TESTS_SKIP_NOTHING", "1")
    with pytest.raises(pytest.fail.Exception, match="no server, and"):
        absent("no server")
