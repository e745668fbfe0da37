from __future__ import annotations

import os
import signal
import sqlite3
import stat
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path

import pytest
from sqlalchemy import event, text
from tinsmith.domain.errors import StorageError
from tinsmith.domain.ops import AdamParams, OptimStep
from tinsmith.domain.outcomes import StepDone, Succeeded
from tinsmith.domain.records import Run
from tinsmith.ledger import sqlite
from tinsmith.ledger.ledger import Ledger
from tinsmith.ledger.migrations import MIGRATIONS, bring_up_to_date

MODEL = "org/tiny"
STEP = OptimStep(AdamParams())

APPEND_FOR_EVER = """
import sys
from tinsmith.domain.ops import AdamParams, OptimStep
from tinsmith.ledger.ledger import Ledger

file, run_id, first, stop = sys.argv[1:]
ledger = Ledger.open(file)
for seq_id in range(int(first), int(stop)):
    request_id = ledger.append(
        run_id, seq_id, OptimStep(AdamParams()), owner="anna", base_model="org/tiny"
    )
    print(request_id, flush=True)
ledger.close()
"""

SETTLE_FOR_EVER = """
import sys
from tinsmith.domain.outcomes import StepDone, Succeeded
from tinsmith.ledger.ledger import Ledger

ledger = Ledger.open(sys.argv[1])
epoch = ledger.acquire_lease("org/tiny", "child")
for record in ledger.pending("org/tiny"):
    ledger.settle(record.request_id, Succeeded(StepDone({})), lease_epoch=epoch)
    print(record.request_id, flush=True)
"""


def child(script: str, *arguments: object) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", script, *map(str, arguments)], stdout=subprocess.PIPE, text=True
    )


def kill_after(process: subprocess.Popen[str], num_lines: int) -> list[str]:
    """Every line the process got out before `kill -9` hit it."""
    assert process.stdout is not None
    lines = [process.stdout.readline().strip() for _ in range(num_lines)]
    process.send_signal(signal.SIGKILL)
    lines += process.stdout.read().splitlines()
    process.stdout.close()
    assert process.wait() == -signal.SIGKILL
    return [line for line in lines if "#" in line]


def test_nothing_acknowledged_is_lost_when_the_process_is_killed(
    ledger: Ledger, ledger_file: Path, run: Run
):
    acknowledged = kill_after(child(APPEND_FOR_EVER, ledger_file, run.run_id, 1, 10**6), 25)

    found = [record.request_id for record in ledger.pending(MODEL)][1:]

    assert found[: len(acknowledged)] == acknowledged
    assert len(found) - len(acknowledged) <= 1  # at most one was stored and not yet answered
    following = len(found) + 1
    assert ledger.append(run.run_id, following, STEP, owner="anna", base_model=MODEL)


def test_a_killed_engine_leaves_each_op_settled_or_waiting(
    ledger: Ledger, ledger_file: Path, run: Run
):
    ids = [f"{run.run_id}#0"] + [
        ledger.append(run.run_id, seq_id, STEP, owner="anna", base_model=MODEL)
        for seq_id in range(1, 60)
    ]
    acknowledged = kill_after(child(SETTLE_FOR_EVER, ledger_file), 10)

    settled = ledger.outcomes(ids)
    waiting = [record.request_id for record in ledger.pending(MODEL)]

    assert set(acknowledged) <= settled.keys()
    assert waiting == [id_ for id_ in ids if id_ not in settled]
    epoch = ledger.acquire_lease(MODEL, "next engine")
    for request_id in waiting:
        ledger.settle(request_id, Succeeded(StepDone({})), lease_epoch=epoch)
    assert ledger.pending(MODEL) == []


def test_two_processes_write_at_once(ledger: Ledger, ledger_file: Path, new_run):
    theirs, ours = new_run(), new_run()
    process = child(APPEND_FOR_EVER, ledger_file, theirs.run_id, 1, 101)
    for seq_id in range(1, 101):
        ledger.append(ours.run_id, seq_id, STEP, owner="anna", base_model=MODEL)
    output, _ = process.communicate(timeout=60)

    assert process.returncode == 0
    assert len(output.splitlines()) == 100
    records = ledger.pending(MODEL)
    for run in (theirs, ours):
        assert [r.seq_id for r in records if r.scope == run.run_id] == list(range(101))


def test_many_threads_share_commits_and_keep_their_order(ledger: Ledger, new_run):
    runs = [new_run() for _ in range(16)]

    def work(run: Run) -> None:
        for seq_id in range(1, 21):
            ledger.append(run.run_id, seq_id, STEP, owner="anna", base_model=MODEL)

    with ThreadPoolExecutor(16) as pool:
        list(pool.map(work, runs))

    records = ledger.pending(MODEL)
    assert len(records) == 16 * 21
    for run in runs:
        assert [r.seq_id for r in records if r.scope == run.run_id] == list(range(21))


def test_a_failing_write_does_not_spoil_the_others_in_its_group(ledger: Ledger, run: Run):
    """The writer is held up first, so that what follows shares one transaction."""
    started, go_on = threading.Event(), threading.Event()

    def hold(connection) -> None:
        started.set()
        go_on.wait(10)

    def half_then_fail(connection) -> None:
        connection.execute(text("UPDATE runs SET is_corrupted = 1"))
        raise LookupError("half done")

    with ThreadPoolExecutor(4) as pool:
        holding = pool.submit(ledger._write, hold)
        assert started.wait(10)
        good = pool.submit(ledger.append, run.run_id, 1, STEP, owner="anna", base_model=MODEL)
        bad = pool.submit(ledger._write, half_then_fail)
        broken_sql = pool.submit(ledger._write, lambda c: c.execute(text("SELECT * FROM nowhere")))
        time.sleep(0.1)
        go_on.set()
        assert good.result() == f"{run.run_id}#1"
        with pytest.raises(LookupError):
            bad.result()
        with pytest.raises(StorageError, match="nowhere"):
            broken_sql.result()
        holding.result()
    found = ledger.run(run.run_id)
    assert found is not None
    assert not found.is_corrupted


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


def test_a_closed_ledger_says_so(ledger_file: Path):
    ledger = Ledger.open(ledger_file)
    ledger.close()
    ledger.close()

    with pytest.raises(StorageError, match="closed"):
        ledger.create_session("anna")


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


def test_a_newer_schema_is_refused_and_not_touched(ledger: Ledger, ledger_file: Path):
    ledger._write(lambda c: c.execute(text("UPDATE schema_version SET version = 99")))

    with pytest.raises(StorageError, match=r"schema 99.*newer"):
        Ledger.open(ledger_file)
    with ledger._read() as connection:
        assert connection.execute(text("SELECT version FROM schema_version")).scalar() == 99


def test_migrations_run_in_order_and_once(ledger: Ledger):
    done: list[str] = []
    steps = (
        lambda connection: done.append("to 2"),
        lambda connection: done.append("to 3"),
    )

    ledger._write(lambda c: c.execute(text("UPDATE schema_version SET version = 1")))
    ledger._write(lambda c: bring_up_to_date(c, steps))
    ledger._write(lambda c: bring_up_to_date(c, steps))

    assert done == ["to 2", "to 3"]


def test_a_ledger_of_the_first_schema_opens_with_its_sessions(ledger: Ledger, ledger_file: Path):
    session = ledger.create_session("anna", display_name="old")
    for newer_than_that in (
        "ALTER TABLE sessions DROP COLUMN project_id",
        "ALTER TABLE runs DROP COLUMN inexact",
        "ALTER TABLE ops DROP COLUMN execution",
        *(f"DROP TABLE {name}" for name in ("snapshots", "api_keys", "projects", "audit")),
    ):
        ledger._write(lambda c, statement=newer_than_that: c.execute(text(statement)))
    ledger._write(lambda c: c.execute(text("UPDATE schema_version SET version = 1")))

    newer = Ledger.open(ledger_file)

    assert newer.session(session.session_id) == session
    assert newer.set_project(session.session_id, "mail")
    found = newer.session(session.session_id)
    assert found is not None and found.project_id == "mail"
    newer.close()


def test_a_migration_that_fails_leaves_the_old_schema(ledger: Ledger):
    newest = 1 + len(MIGRATIONS)

    def half(connection) -> None:
        connection.execute(text("CREATE TABLE half (a INTEGER)"))
        raise LookupError("half done")

    with pytest.raises(LookupError):
        ledger._write(lambda c: bring_up_to_date(c, (*MIGRATIONS, half)))

    with ledger._read() as connection:
        assert connection.execute(text("SELECT version FROM schema_version")).scalar() == newest
        names = connection.execute(text("SELECT name FROM sqlite_master")).scalars().all()
    assert "half" not in names


def test_several_openings_of_a_new_file_make_one_schema(ledger_file: Path):
    with ThreadPoolExecutor(4) as pool:
        ledgers = list(pool.map(lambda _: Ledger.open(ledger_file), range(4)))

    sessions = [ledger.create_session("anna") for ledger in ledgers]
    assert len(ledgers[0].sessions("anna", limit=10)) == len(sessions)
    for ledger in ledgers:
        ledger.close()


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


def test_times_are_utc_whatever_zone_they_come_in(ledger: Ledger, run: Run):
    found = ledger.run(run.run_id)

    assert found is not None
    assert found.created_at == run.created_at
    assert found.created_at.tzinfo is UTC
    assert abs((datetime.now(UTC) - found.created_at).total_seconds()) < 60
