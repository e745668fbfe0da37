"""Restarts at moments that matter, with a script under way that knows nothing of them."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Iterator

import pytest
from killable_server import KillableServer, running, servers_below
from watched_training import (
    Told,
    Training,
    assert_equal_trainings,
    assert_nothing_failed,
    assert_outcomes_stand,
    num_logged,
    settled,
)

PAUSE_S = float(os.environ.get("CRASH_PAUSE_S", "5"))
"""How long nobody is there; `make test-long` takes a minute."""
STEPS = 30

pytestmark = pytest.mark.timeout(600)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[KillableServer]:
    with (
        servers_below(tmp_path_factory.mktemp("servers")) as make,
        running(make("[recovery]\nmax_replay_s = 1.0\n")) as server,
    ):
        yield server


@pytest.fixture(scope="module")
def undisturbed(server: KillableServer, tmp_path_factory: pytest.TempPathFactory) -> Told:
    return Training(server, tmp_path_factory.mktemp("scripts") / "undisturbed", STEPS).result()


def wait_until(holds: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 120.0
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.002)


def wait_for_steps(server: KillableServer, count: int) -> None:
    """Until so many more optimizer steps are logged."""
    before = num_logged(server, "optim_step")
    wait_until(lambda: num_logged(server, "optim_step") >= before + count)


def test_stopped_and_started_again(server, undisturbed, tmp_path):
    training = Training(server, tmp_path / "disturbed", STEPS)
    for _ in range(2):
        wait_for_steps(server, 12)
        assert server.stop() == 0
        server.start()
        server.wait_until_ready()
    assert_equal_trainings(server, training.result(), undisturbed)
    assert_nothing_failed(server)
    server.wait_for_orphans()


def test_away_for_a_while(server, undisturbed, tmp_path):
    training = Training(server, tmp_path / "disturbed", STEPS)
    wait_for_steps(server, 12)
    server.kill_everything()
    time.sleep(PAUSE_S)
    server.start()
    assert_equal_trainings(server, training.result(), undisturbed)
    assert_nothing_failed(server)


def test_killed_while_runs_are_being_created(server, undisturbed, tmp_path):
    before = num_logged(server, "create_run")
    training = Training(server, tmp_path / "disturbed", STEPS)
    wait_until(lambda: num_logged(server, "create_run") > before)
    server.kill_everything()
    server.start()
    assert_equal_trainings(server, training.result(), undisturbed)
    assert_nothing_failed(server)


def test_a_script_may_start_before_its_server_is_back(server, undisturbed, tmp_path):
    server.kill_everything()
    training = Training(server, tmp_path / "disturbed", STEPS)
    time.sleep(4.0)
    server.start()
    assert_equal_trainings(server, training.result(), undisturbed)
    assert_nothing_failed(server)


def test_an_engine_that_outlives_its_front_records_nothing(server, undisturbed, tmp_path):
    """It is stopped in the middle of its work, and wakes when others have done it."""
    training = Training(server, tmp_path / "disturbed", STEPS)
    wait_for_steps(server, 20)
    (orphan,) = server.engines()
    orphan.suspend()
    server.kill_front()
    server.start()
    disturbed = training.result()
    outcomes = settled(server)
    if orphan.is_running():
        orphan.send_signal(signal.SIGCONT)
    server.wait_for_orphans()
    assert_outcomes_stand(server, outcomes)
    assert_equal_trainings(server, disturbed, undisturbed)
    assert_nothing_failed(server)
