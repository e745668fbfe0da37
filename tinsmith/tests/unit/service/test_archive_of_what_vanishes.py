"""A checkpoint may be deleted while somebody downloads or copies it."""

from __future__ import annotations

import gzip
import io
from pathlib import Path
from typing import BinaryIO

import numpy as np
import pytest
from tinsmith.checkpoints.store import CheckpointStore
from tinsmith.domain.addresses import CheckpointAddress
from tinsmith.domain.errors import NotFoundError
from tinsmith.service.archive import tar_gz

ADDRESS = CheckpointAddress.parse("tinker://run:train:0/weights/a")
TARGET = CheckpointAddress.parse("tinker://run:train:1/weights/a")


def test_what_is_gone_is_said_before_the_first_piece():
    def open_file(path: str) -> BinaryIO:
        if path == "b":
            raise NotFoundError("gone")
        return io.BytesIO(b"x")

    with pytest.raises(NotFoundError):
        next(tar_gz([("a", 1), ("b", 1)], open_file, 0.0))


def test_what_goes_after_the_first_piece_is_still_sent(tmp_path: Path):
    for name in ("a", "b"):
        (tmp_path / name).write_bytes(name.encode() * 3)
    pieces = tar_gz([("a", 3), ("b", 3)], lambda path: (tmp_path / path).open("rb"), 0.0)
    first = next(pieces)
    for name in ("a", "b"):
        (tmp_path / name).unlink()
    assert b"bbb" in gzip.decompress(first + b"".join(pieces))


def test_a_copy_of_what_vanishes_says_so_and_leaves_nothing(tmp_path: Path):
    store = CheckpointStore(tmp_path)
    store.write(ADDRESS, adapter={"a": np.ones(2, np.float32)}, adapter_config={"r": 2})
    (store.folder(ADDRESS) / "adapter_model.safetensors").unlink()
    with pytest.raises(NotFoundError):
        store.copy(ADDRESS, TARGET)
    assert not store.folder(TARGET).exists()
    assert list(store.folder(TARGET).parent.iterdir()) == []
