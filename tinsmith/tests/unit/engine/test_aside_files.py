from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file
from tinsmith.engine.aside_files import AsideFiles, file_name

VECTORS = {
    "weights": np.array([1.5, -0.0, np.float32(1e-45)], np.float32),
    "gradient": np.arange(5, dtype=np.float32),
}


def test_what_was_written_is_read_bit_for_bit_in_memory_of_its_own(tmp_path: Path) -> None:
    files = AsideFiles(tmp_path / "aside")
    file = files.write("run:1", VECTORS)
    read = files.read(file)
    files.remove(file)
    read["gradient"][0] = 9.0
    assert read["weights"].tobytes() == VECTORS["weights"].tobytes()
    assert list(read["gradient"]) == [9.0, 1.0, 2.0, 3.0, 4.0]
    assert not list((tmp_path / "aside").iterdir())


def test_the_files_are_safetensors(tmp_path: Path) -> None:
    file = AsideFiles(tmp_path).write("run", VECTORS)
    others = load_file(file.path)
    assert {name: array.tobytes() for name, array in others.items()} == {
        name: array.tobytes() for name, array in VECTORS.items()
    }


@pytest.mark.skipif(os.name == "nt", reason="no permission bits")
def test_only_the_owner_can_read_them(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        file = AsideFiles(tmp_path / "aside").write("run", VECTORS)
    finally:
        os.umask(before)
    assert file.path.stat().st_mode & 0o077 == 0
    assert file.path.parent.stat().st_mode & 0o077 == 0


def test_an_engine_begins_with_an_empty_folder_and_takes_no_others(tmp_path: Path) -> None:
    mine, other = AsideFiles(tmp_path / "a"), AsideFiles(tmp_path / "b")
    left, kept = mine.write("run", VECTORS), other.write("run", VECTORS)
    AsideFiles(tmp_path / "a")
    assert not left.path.exists() and kept.path.exists()


@pytest.mark.parametrize("text", ["..", ".", "", "Qwen/Qwen3-0.6B", "a" * 500, "..\\x", "ü"])
def test_any_text_has_a_name_that_is_one_folder_below(text: str, tmp_path: Path) -> None:
    name = file_name(text)
    (tmp_path / name).mkdir()
    assert (tmp_path / name).resolve().parent == tmp_path.resolve()
    assert file_name(text + " ") != name
