"""Every write, sync, rename and new file fails once, in every way, and nothing that was promised is
lost; and so with the power, which takes whatever was not synced."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest

WORKLOAD = Path(__file__).with_name("storage_workload.py")

FAULTS = os.environ.get("CRASH_FAULTS", "some")
"""`make test-long` takes all: each call in each way, instead of one after the other."""

pytestmark = pytest.mark.timeout(1800)


@pytest.fixture
def disk() -> Iterator[Path]:
    """A folder in memory where there is one: thousands of syncs are not what is tested."""
    memory = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
    with TemporaryDirectory(dir=memory) as folder:
        yield Path(folder) / "disk"


def work(library: Path, folder: Path, what: str) -> dict[str, Any]:
    folder.mkdir()
    done = subprocess.run(
        [sys.executable, str(WORKLOAD), str(folder), what],
        env={**os.environ, "LD_PRELOAD": str(library), "FAULTS_ROOT": str(folder)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-4000:]
    told = json.loads(done.stdout)
    print(told)
    return told


def test_no_fault_loses_what_was_acknowledged(faults_library, disk):
    told = work(faults_library, disk, FAULTS)
    assert told["calls"] > 100
    assert told["failed"] >= told["cases"], "each case has met its fault"
    assert told["refused"] > 0


def test_a_power_cut_takes_nothing_that_was_acknowledged(faults_library, disk):
    told = work(faults_library, disk, "power")
    assert told["cuts"] == 2 * told["calls"] > 200
