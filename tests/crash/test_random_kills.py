"""kill -9 at random moments of a training script that knows nothing of it.

`make test-long` kills 200 times. A failure names its seed: CRASH_SEED=... repeats the kills.
"""

from __future__ import annotations

import os
import secrets

import pytest
from killable_server import running
from killer import Killer
from watched_training import Training, assert_equal_trainings, assert_nothing_failed

NUM_KILLS = int(os.environ.get("CRASH_KILLS", "20"))
SEED = int(os.environ.get("CRASH_SEED", secrets.randbelow(10**6)))

SNAPSHOTS_OFTEN = "[recovery]\nmax_replay_s = 0.5\n"
SNAPSHOTS_SELDOM = "[recovery]\nmax_replay_s = 60.0\n"


@pytest.mark.timeout(300 + 60 * NUM_KILLS)
@pytest.mark.parametrize("settings", [SNAPSHOTS_OFTEN, SNAPSHOTS_SELDOM], ids=["often", "seldom"])
def test_a_script_goes_on_as_if_nothing_had_been(settings, make_server, tmp_path):
    seed = SEED + len(settings)
    print(f"CRASH_SEED={SEED}")
    server = make_server(settings)
    with running(server):
        undisturbed = Training(server, tmp_path / "undisturbed").result()
        killer = Killer(server, seed)
        left, scripts = NUM_KILLS // 2, 0
        while left:
            scripts += 1
            training = Training(server, tmp_path / f"disturbed-{scripts}")
            left -= killer.disturb(training, left)
            disturbed = training.result()
            killer.check()
            assert_equal_trainings(server, disturbed, undisturbed)
            assert_nothing_failed(server)
        server.wait_for_orphans()
    print(f"{len(killer.told)} kills during {scripts} scripts: {', '.join(killer.told)}")
