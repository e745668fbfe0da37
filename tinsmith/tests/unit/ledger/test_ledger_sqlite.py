from __future__ import annotations

import os
import sqlite3
import stat
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from sqlalchemy import event
from tinsmith.domain.errors import StorageError
from tinsmith.domain.ops import AdamParams, OptimStep
from tinsmith.domain.records import Run
from tinsmith.ledger import sqlite
from tinsmith.ledger.ledger import Ledger

MODEL = "org/tiny"
STEP = OptimStep(AdamParams())


@pytest.fixture
def ledger_place(ledger_file: Path) -> str:
    """Only SQLite's here."""
    return str(ledger_file)


def test_a_full_disk_is_told_and_nothing_half_done_stays(ledger: Ledger, run: Run):
    limited = [True]

    def limit(connection: sqlite3.Connection, *_: object) -> None:
        pages = connection.execute("PRAGMA page_count").fetchone()[0]
        connection.execute(f"PRAGMA max_page_count = {pages if limited[0] else 2**30}")

    ledger._engine.dispose()
    event.listen(ledger._engine, "connect", limit)

    with pytest.raises(StorageError, match=r"is full: free some space.*nothing of this request"):
        for seq_id in range(1, 10**4):
            ledger.append(run.run_id, seq_id, STEP, owner="anna", base_model=MODEL)
    found = len(ledger.pending(MODEL))
    assert ledger.run_last_seq(run.run_id) == found - 1

    limited[0] = False
    ledger._engine.dispose()
    assert ledger.append(run.run_id, found, STEP, owner="anna", base_model=MODEL)


def test_a_lock_that_somebody_keeps_is_told(ledger_file: Path, monkeypatch: pytest.MonkeyPatch):
    Ledger.open(ledger_file).close()
    monkeypatch.setattr(sqlite, "BUSY_TIMEOUT_MS", 100)
    ledger = Ledger.open(ledger_file)
    other = sqlite3.connect(ledger_file, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")

    with pytest.raises(StorageError, match="another process holds it"):
        ledger.create_session("anna")
    other.execute("ROLLBACK")
    other.close()
    assert ledger.create_session("anna")
    ledger.close()


def test_the_ledger_is_private_and_syncs_fully(ledger: Ledger, ledger_file: Path):
    with ledger._read() as connection:
        assert connection.exec_driver_sql("PRAGMA synchronous").scalar() == 2
        assert connection.exec_driver_sql("PRAGMA journal_mode").scalar() == "wal"
        assert connection.exec_driver_sql("PRAGMA foreign_keys").scalar() == 1
    if os.name != "nt":
        assert stat.S_IMODE(ledger_file.stat().st_mode) == 0o600


def test_a_ledger_opens_by_url_and_finds_what_was_there(ledger_file: Path):
    first = Ledger.open(f"sqlite:///{ledger_file}")
    session = first.create_session("anna")
    first.close()

    again = Ledger.open(ledger_file)
    assert again.session(session.session_id) == session
    again.close()


@pytest.mark.parametrize("url", ["sqlite:///:memory:", "mysql://host/db", "sqlite:///"])
def test_what_cannot_be_a_ledger_is_refused_by_name(url: str):
    with pytest.raises(StorageError, match=url.partition("/")[0]):
        Ledger.open(url)


def test_a_file_that_is_no_database_is_left_alone(tmp_path: Path):
    file = tmp_path / "ledger.sqlite"
    file.write_bytes(b"these are somebody's notes, not a ledger" * 100)

    with pytest.raises(StorageError, match="damaged or no ledger"):
        Ledger.open(file)
    assert file.read_bytes().startswith(b"these are")


def test_first_connections_to_a_new_file_wait_for_each_other(tmp_path: Path):
    at_once = threading.Barrier(8)

    def connect(path: Path) -> None:
        connection = sqlite3.connect(path)
        at_once.wait()
        sqlite.prepare(connection)
        connection.close()

    with ThreadPoolExecutor(8) as pool:
        for number in range(100):
            path = tmp_path / f"{number}.sqlite"
            path.touch()
            list(pool.map(connect, [path] * 8))
