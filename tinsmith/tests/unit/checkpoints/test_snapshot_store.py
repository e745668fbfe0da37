from __future__ import annotations

import os
import stat
from pathlib import Path

import numpy as np
import pytest
from tinsmith.checkpoints.snapshots import DamagedSnapshotError, SnapshotStore
from tinsmith.domain.errors import StorageError

VECTORS = {
    "weights": np.array([1.5, -0.0, 3e-40], np.float32),
    "gradient": np.arange(5, dtype=np.float32),
}


@pytest.fixture
def store(tmp_path: Path) -> SnapshotStore:
    return SnapshotStore(tmp_path / "snapshots")


def test_a_snapshot_comes_back_bit_for_bit(store: SnapshotStore, tmp_path: Path):
    written = store.write("model", "run-1", VECTORS)

    back = store.read(written.file, written.digest)

    path = tmp_path / "snapshots" / written.file
    assert {name: array.tobytes() for name, array in back.items()} == {
        name: array.tobytes() for name, array in VECTORS.items()
    }
    assert written.size_bytes == path.stat().st_size
    if os.name != "nt":
        assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_other_tools_can_read_it(store: SnapshotStore, tmp_path: Path):
    from safetensors.numpy import load_file

    written = store.write("model", "run-1", VECTORS)

    np.testing.assert_array_equal(
        load_file(tmp_path / "snapshots" / written.file)["gradient"], VECTORS["gradient"]
    )


@pytest.mark.parametrize("at", [0, 20, -1])
def test_a_single_changed_byte_is_found(store: SnapshotStore, tmp_path: Path, at: int):
    written = store.write("model", "run-1", VECTORS)
    path = tmp_path / "snapshots" / written.file
    data = bytearray(path.read_bytes())
    data[at] ^= 1
    path.write_bytes(data)

    with pytest.raises(DamagedSnapshotError, match="not what was written"):
        store.read(written.file, written.digest)


def test_one_that_is_gone_is_told(store: SnapshotStore):
    written = store.write("model", "run-1", VECTORS)
    store.remove(written.file)
    store.remove(written.file)

    with pytest.raises(DamagedSnapshotError, match="gone"):
        store.read(written.file, written.digest)


def test_the_sweep_takes_what_nobody_names_and_nothing_of_other_models(
    store: SnapshotStore, tmp_path: Path
):
    kept, lost = store.write("model", "run-1", VECTORS), store.write("model", "run-2", VECTORS)
    other = store.write("other", "run-3", VECTORS)
    half = tmp_path / "snapshots" / "model" / "run-4-abc.new"
    half.write_bytes(b"half")

    assert store.sweep("model", {kept.file}) == 2

    assert store.read(kept.file, kept.digest) and store.read(other.file, other.digest)
    assert not half.exists()
    with pytest.raises(DamagedSnapshotError):
        store.read(lost.file, lost.digest)


def test_a_disk_that_refuses_leaves_nothing_behind(store: SnapshotStore, tmp_path: Path):
    (tmp_path / "snapshots").write_text("a file where the folder should be")

    with pytest.raises(StorageError, match="can't be written"):
        store.write("model", "run-1", VECTORS)
