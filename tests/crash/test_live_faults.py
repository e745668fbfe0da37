"""A server whose disk fails now and then, with a script at work.

A failure names its seed: CRASH_SEED=... chooses the same calls again, as far as threads allow.
"""

from __future__ import annotations

import os
import secrets
from collections.abc import Callable
from pathlib import Path

import pytest
from killable_server import KillableServer
from tinsmith.checkpoints.store import CheckpointStore
from tinsmith.domain.addresses import CheckpointAddress
from watched_training import (
    Training,
    ask,
    assert_equal_trainings,
    assert_nothing_failed,
    assert_outcomes_stand,
    settled,
)

SEED = int(os.environ.get("CRASH_SEED", secrets.randbelow(10**6)))
STEPS = 20
ALL_KINDS = ("eio", "enospc", "short", "torn")
KINDS = ALL_KINDS if os.environ.get("CRASH_FAULTS") == "all" else ALL_KINDS[SEED % 4 :][:1]
"""One of them, by the seed; `make test-long` takes all."""

pytestmark = pytest.mark.timeout(600)


@pytest.fixture
def make_failing(make_server, faults_library: Path, tmp_path: Path) -> Callable[[], KillableServer]:
    """A ready server on a disk that fails as `disk_fails` says."""

    def make() -> KillableServer:
        server = make_server(
            "[recovery]\nmax_replay_s = 0.5\n",
            LD_PRELOAD=str(faults_library),
            FAULTS_FILE=str(tmp_path / "faults"),
        )
        server.environment["FAULTS_ROOT"] = str(server.home)
        server.start()
        server.wait_until_ready()
        return server

    return make


def disk_fails(folder: Path, kind: str, per_million: int) -> None:
    """That share of the calls, from now on. Replaced at once, as servers read it meanwhile."""
    fresh = folder / "faults.new"
    fresh.write_text(f"{kind} 0 0 {per_million} {SEED}\n")
    fresh.replace(folder / "faults")


def assert_checkpoints_are_whole(server: KillableServer) -> None:
    """Each one in the catalogue, compared with its manifest."""
    store = CheckpointStore(server.home / "checkpoints")
    for (text,) in ask(server, "select address from checkpoints"):
        address = CheckpointAddress.parse(text)
        store.read_adapter(address)
        if "/weights/" in text:
            store.read_optimizer(address)


@pytest.mark.parametrize("kind", KINDS)
def test_a_disk_that_fails_now_and_then(kind, make_failing, tmp_path):
    print(f"CRASH_SEED={SEED}")
    server = make_failing()
    undisturbed = Training(server, tmp_path / "undisturbed", STEPS).result()
    disk_fails(tmp_path, kind, 3000)
    training = Training(server, tmp_path / "disturbed", STEPS)
    error = training.error()
    outcomes = settled(server)
    disk_fails(tmp_path, "none", 0)
    print(f"{kind}: the script ended with {error}")

    server.kill_everything()
    server.start()
    server.wait_until_ready()
    assert_outcomes_stand(server, outcomes)
    assert_checkpoints_are_whole(server)
    if error is None:
        assert_equal_trainings(server, training.result(), undisturbed)
        assert_nothing_failed(server)
    else:  # a save that the disk has refused
        assert "RequestFailedError" in error and "cannot write" in error
