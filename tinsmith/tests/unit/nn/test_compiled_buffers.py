"""The compiled step's arrays start where its vectors do not reach over lines of the cache."""

from __future__ import annotations

import pytest
from tinsmith.nn.compiled.buffers import Buffers, Scratch

LINE_BYTES = 64


@pytest.mark.parametrize("width", [1, 16, 100, 1024, 40_000])
def test_every_row_of_a_buffer_starts_at_a_line(width: int) -> None:
    buffers = Buffers()
    for count in (1, 3, 16):
        array = buffers.rows("x", count, width)
        assert array.shape[0] >= count
        assert not array.any()
        assert all(row.ctypes.data % LINE_BYTES == 0 for row in array)


def test_scratch_memory_starts_at_lines_however_much_there_is() -> None:
    scratch = Scratch(num_threads=3, group=2, head_dim=20)
    for length in (1, 33, 5000):
        scratch.reserve(length)
        for array in (scratch.heads, scratch.scores):
            assert all(row.ctypes.data % LINE_BYTES == 0 for thread in array for row in thread)
    assert all(row.ctypes.data % LINE_BYTES == 0 for row in scratch.tiles)
