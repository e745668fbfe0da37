"""Checkpoints on a real disk: whole or not at all."""

from __future__ import annotations

import errno
import json
import os
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from tinsmith.checkpoints.store import CheckpointStore
from tinsmith.domain.addresses import CheckpointAddress, CheckpointKind
from tinsmith.domain.errors import InvalidInputError, NotFoundError, StorageError

ADDRESS = CheckpointAddress("s:train:0", CheckpointKind.TRAINING, "step-1")
CONFIG = {"r": 4, "lora_alpha": 32.0}


def arrays(value: float) -> dict[str, np.ndarray]:
    return {"base_model.model.q.lora_A.weight": np.full((4, 3), value, np.float32)}


@pytest.fixture
def store(tmp_path: Path) -> CheckpointStore:
    return CheckpointStore(tmp_path / "checkpoints")


def write(store: CheckpointStore, value: float, **more: object) -> None:
    store.write(ADDRESS, adapter=arrays(value), adapter_config=CONFIG, **more)  # type: ignore[arg-type]


def test_what_was_written_is_read_back_bit_for_bit(store: CheckpointStore):
    write(store, 0.1, optimizer={"m": np.arange(3, dtype=np.float32)}, details={"step": 7})

    adapter, config = store.read_adapter(ADDRESS)

    np.testing.assert_array_equal(
        adapter["base_model.model.q.lora_A.weight"], arrays(0.1).popitem()[1]
    )
    assert config == CONFIG
    assert store.read_optimizer(ADDRESS)["m"].tolist() == [0, 1, 2]
    assert store.manifest(ADDRESS)["details"] == {"step": 7}
    sizes = store.files(ADDRESS)
    assert set(sizes) == {
        "adapter_config.json",
        "adapter_model.safetensors",
        "optimizer.safetensors",
        "manifest.json",
    }
    for name, size in sizes.items():
        with store.open(ADDRESS, name) as file:
            assert len(file.read()) == size


def test_a_taken_name_is_kept_unless_overwriting_was_asked_for(store: CheckpointStore):
    write(store, 1.0)
    with pytest.raises(InvalidInputError, match="exists already"):
        write(store, 2.0)
    assert store.read_adapter(ADDRESS)[0].popitem()[1][0, 0] == 1.0
    write(store, 3.0, overwrite=True)
    assert store.read_adapter(ADDRESS)[0].popitem()[1][0, 0] == 3.0


@pytest.mark.parametrize("damage", [b"", b"x" * 200])
def test_changed_bytes_are_named_as_corrupt(store: CheckpointStore, tmp_path: Path, damage: bytes):
    write(store, 1.0)
    next(tmp_path.rglob("adapter_model.safetensors")).write_bytes(damage)
    with pytest.raises(InvalidInputError, match="corrupt: adapter_model"):
        store.read_adapter(ADDRESS)


def test_a_directory_without_manifest_is_no_checkpoint(store: CheckpointStore, tmp_path: Path):
    write(store, 1.0)
    next(tmp_path.rglob("manifest.json")).unlink()
    with pytest.raises(NotFoundError):
        store.files(ADDRESS)


def test_a_full_disk_leaves_the_old_checkpoint_and_nothing_else(
    store: CheckpointStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    write(store, 1.0)

    def refuse(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", refuse)
    with pytest.raises(StorageError, match="No space left"):
        write(store, 2.0, overwrite=True)
    assert store.read_adapter(ADDRESS)[0].popitem()[1][0, 0] == 1.0
    assert len(list((tmp_path / "checkpoints").glob("*/*/*"))) == 1


def test_a_sweep_finishes_an_interrupted_overwrite(store: CheckpointStore, tmp_path: Path):
    write(store, 1.0)
    target = next(tmp_path.rglob("step-1"))
    target.rename(target.parent / ".step-1.0123.old")  # the process died between two renames
    (target.parent / ".step-1.4567.new").mkdir()

    assert store.sweep(lambda address: address == ADDRESS) == 1

    assert store.read_adapter(ADDRESS)[0].popitem()[1][0, 0] == 1.0
    assert [p.name for p in target.parent.iterdir()] == ["step-1"]


def test_a_sweep_removes_what_the_catalogue_does_not_know(store: CheckpointStore, tmp_path: Path):
    write(store, 1.0)
    orphan = replace(ADDRESS, name="step-2")
    store.write(orphan, adapter=arrays(2.0), adapter_config=CONFIG)
    kept = next(tmp_path.rglob("step-1"))
    for name, manifest in {"none": None, "cut": b'{"format": 1, "addr', "odd": b"[1]"}.items():
        (kept.parent / name).mkdir()
        if manifest is not None:
            (kept.parent / name / "manifest.json").write_bytes(manifest)
    shutil.copytree(kept, kept.parent / "copy")  # names an address that leads elsewhere

    assert store.sweep(lambda address: address == ADDRESS) == 5

    assert store.read_adapter(ADDRESS)[0].popitem()[1][0, 0] == 1.0
    assert [p.name for p in kept.parent.iterdir()] == ["step-1"]
    store.write(orphan, adapter=arrays(3.0), adapter_config=CONFIG)  # the name is free again


def test_a_sweep_keeps_a_known_checkpoint_of_a_newer_format(store: CheckpointStore, tmp_path: Path):
    write(store, 1.0)
    manifest = next(tmp_path.rglob("manifest.json"))
    manifest.write_text(json.dumps({"format": 2, "address": str(ADDRESS)}))

    assert store.sweep(lambda address: True) == 0

    with pytest.raises(InvalidInputError, match="format 2; this tinsmith reads up to 1"):
        store.files(ADDRESS)


FILES = {
    "adapter_config.json": {"bytes": 1, "sha256": ""},
    "adapter_model.safetensors": {"bytes": 1, "sha256": ""},
}


@pytest.mark.parametrize(
    ("manifest", "words"),
    [
        ([], "expected an object, got list"),
        ({"files": FILES}, "format is None"),
        ({"format": "1", "files": FILES}, "format is '1'"),
        ({"format": True, "files": FILES}, "format is True"),
        ({"format": 1}, "files is NoneType"),
        ({"format": 1, "files": ["adapter_config.json"]}, "files is list"),
        ({"format": 1, "files": {}}, "files lacks adapter_config.json, adapter_model.safetensors"),
        ({"format": 1, "files": {**FILES, "x": 3}}, r"files\['x'\] is 3"),
        ({"format": 1, "files": {**FILES, "x": {"bytes": "1", "sha256": ""}}}, r"files\['x'\]"),
        ({"format": 1, "files": {**FILES, "x": {"bytes": 1}}}, r"files\['x'\]"),
    ],
)
def test_a_manifest_that_is_not_ours_is_corrupt(
    store: CheckpointStore, tmp_path: Path, manifest: object, words: str
):
    write(store, 1.0)
    next(tmp_path.rglob("manifest.json")).write_text(json.dumps(manifest))
    for use in (store.manifest, store.files, store.read_adapter, store.read_optimizer):
        with pytest.raises(InvalidInputError, match=f"corrupt: manifest.json: .*{words}"):
            use(ADDRESS)


def test_a_file_that_has_gone_is_named_as_corrupt(store: CheckpointStore, tmp_path: Path):
    write(store, 1.0)
    next(tmp_path.rglob("adapter_config.json")).unlink()
    with pytest.raises(InvalidInputError, match=r"corrupt: adapter_config\.json is missing"):
        store.open(ADDRESS, "adapter_config.json")


def test_only_listed_files_can_be_opened(store: CheckpointStore):
    write(store, 1.0)
    for path in ("../step-1/manifest.json", "/etc/hostname", "nothing", ""):
        with pytest.raises(NotFoundError):
            store.open(ADDRESS, path)


def test_deleting_is_final_and_may_be_repeated(store: CheckpointStore):
    write(store, 1.0)
    store.delete(ADDRESS)
    store.delete(ADDRESS)
    with pytest.raises(NotFoundError):
        store.manifest(ADDRESS)
