from __future__ import annotations

import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime

import pytest
from sqlalchemy import text
from tinsmith.domain.errors import StorageError
from tinsmith.domain.ops import AdamParams, OptimStep
from tinsmith.domain.outcomes import StepDone, Succeeded
from tinsmith.domain.records import Run
from tinsmith.ledger.ledger import Ledger

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
    ledger: Ledger, ledger_place: str, run: Run
):
    acknowledged = kill_after(child(APPEND_FOR_EVER, ledger_place, run.run_id, 1, 10**6), 25)

    found = [record.request_id for record in ledger.pending(MODEL)][1:]

    assert found[: len(acknowledged)] == acknowledged
    assert len(found) - len(acknowledged) <= 1  # at most one was stored and not yet answered
    following = len(found) + 1
    assert ledger.append(run.run_id, following, STEP, owner="anna", base_model=MODEL)


def test_a_killed_engine_leaves_each_op_settled_or_waiting(
    ledger: Ledger, ledger_place: str, run: Run
):
    ids = [f"{run.run_id}#0"] + [
        ledger.append(run.run_id, seq_id, STEP, owner="anna", base_model=MODEL)
        for seq_id in range(1, 60)
    ]
    acknowledged = kill_after(child(SETTLE_FOR_EVER, ledger_place), 10)

    settled = ledger.outcomes(ids)
    waiting = [record.request_id for record in ledger.pending(MODEL)]

    assert set(acknowledged) <= settled.keys()
    assert waiting == [id_ for id_ in ids if id_ not in settled]
    epoch = ledger.acquire_lease(MODEL, "next engine")
    for request_id in waiting:
        ledger.settle(request_id, Succeeded(StepDone({})), lease_epoch=epoch)
    assert ledger.pending(MODEL) == []


def test_two_processes_write_at_once(ledger: Ledger, ledger_place: str, new_run):
    theirs, ours = new_run(), new_run()
    process = child(APPEND_FOR_EVER, ledger_place, theirs.run_id, 1, 101)
    for seq_id in range(1, 101):
        ledger.append(ours.run_id, seq_id, STEP, owner="anna", base_model=MODEL)
    output, _ = process.communicate(timeout=60)

    assert process.returncode == 0
    assert len(output.splitlines()) == 100
    records = ledger.pending(MODEL)
    for run in (theirs, ours):
        assert [r.seq_id for r in records if r.scope == run.run_id] == list(range(101))


def test_who_asks_for_rows_after_the_last_one_misses_none(
    ledger: Ledger, ledger_place: str, new_run
):
    """As engines ask, while several processes write."""
    runs = [new_run() for _ in range(3)]
    num_ops = 3 * 101
    children = [child(APPEND_FOR_EVER, ledger_place, run.run_id, 1, 101) for run in runs]
    seen: list[int] = []
    deadline = time.monotonic() + 120
    while len(seen) < num_ops and time.monotonic() < deadline:
        seen += [record.row for record in ledger.pending(MODEL, seen[-1] if seen else 0)]
    for process in children:
        process.communicate(timeout=60)

    assert seen == [record.row for record in ledger.pending(MODEL)]
    assert len(seen) == num_ops


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
        connection.execute(text("UPDATE runs SET is_corrupted = true"))
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


def test_a_closed_ledger_says_so(ledger_place: str):
    ledger = Ledger.open(ledger_place)
    ledger.close()
    ledger.close()

    with pytest.raises(StorageError, match="closed"):
        ledger.create_session("anna")


def test_several_openings_of_a_new_file_make_one_schema(ledger_place: str):
    with ThreadPoolExecutor(4) as pool:
        ledgers = list(pool.map(lambda _: Ledger.open(ledger_place), range(4)))

    sessions = [ledger.create_session("anna") for ledger in ledgers]
    assert len(ledgers[0].sessions("anna", limit=10)) == len(sessions)
    for ledger in ledgers:
        ledger.close()


def test_times_are_utc_whatever_zone_they_come_in(ledger: Ledger, run: Run):
    found = ledger.run(run.run_id)

    assert found is not None
    assert found.created_at == run.created_at
    assert found.created_at.tzinfo is UTC
    assert abs((datetime.now(UTC) - found.created_at).total_seconds()) < 60
