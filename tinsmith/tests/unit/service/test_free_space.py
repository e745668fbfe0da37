from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest
from tinsmith.service.free_space import FreeSpace

BALLAST_BYTES = 2**30


def events(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage().split()[0] for record in caplog.records]


@pytest.mark.skipif(not hasattr(os, "posix_fallocate"), reason="no posix_fallocate here")
def test_intake_stops_while_the_disk_is_nearly_full_and_goes_on_when_there_is_room(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
):
    free = shutil.disk_usage(tmp_path).free
    if free < 2 * BALLAST_BYTES:
        pytest.skip("the disk of the tests has no room for ballast")
    now = 0.0
    caplog.set_level("INFO", logger="tinsmith")
    # Half the ballast on each side, as others use this disk too.
    space = FreeSpace(tmp_path, free - BALLAST_BYTES // 2, now=lambda: now)
    assert space.shortage() is None

    ballast = tmp_path / "ballast"
    with ballast.open("wb") as file:
        os.posix_fallocate(file.fileno(), 0, BALLAST_BYTES)
    assert space.shortage() is None  # it was looked at just now
    now = 1.0
    shortage = space.shortage()
    assert shortage is not None
    assert "disk is nearly full" in shortage
    now = 2.0
    assert space.shortage() is not None
    assert events(caplog) == ["intake_stopped"]

    ballast.unlink()
    now = 3.0
    assert space.shortage() is None
    assert events(caplog) == ["intake_stopped", "intake_goes_on"]


def test_without_a_bound_or_a_folder_there_is_always_room(tmp_path: Path):
    assert FreeSpace(tmp_path, 0).shortage() is None
    assert FreeSpace(tmp_path / "none", 2**60).shortage() is None
    assert FreeSpace(tmp_path, 2**60).shortage() is not None
