"""Memory that a decode step works in, kept from step to step.

Rows are longer than what they hold: a tile reads up to 2 * LANES past the end, where zeros must
stay, or writes up to TILE_ROWS - 1 numbers more.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from tinsmith.nn.compiled.products import SCRATCH_FLOATS
from tinsmith.nn.compiled.vectors import LANES

Floats = NDArray[np.float32]
_MARGIN = 4 * LANES
_LINE = 16
"""fp32 numbers in a line of the cache: rows start at such multiples."""


class Buffers:
    """Arrays by name, grown to the largest sizes asked for, by doubling."""

    def __init__(self) -> None:
        self._arrays: dict[str, Floats] = {}

    def rows(self, name: str, *shape: int) -> Floats:
        """Zeros at first, at least of this shape, with a margin in the last dimension. What is
        written stays until more is asked for."""
        *counts, width = shape
        have = self._arrays.get(name)
        needed = (*counts, width + _MARGIN)
        if have is None or any(n > m for n, m in zip(needed, have.shape, strict=True)):
            grown = [1 << (max(count, 1) - 1).bit_length() for count in counts]
            have = self._arrays[name] = _zeros(*grown, _with_margin(width))
        return have


class Scratch:
    """What each thread has to itself."""

    def __init__(self, num_threads: int, group: int, head_dim: int) -> None:
        self._threads, self._group = num_threads, group
        self.heads = _zeros(num_threads, 2 * group, _with_margin(head_dim))
        self.scores = _zeros(num_threads, group, 0)
        self.tiles = _zeros(num_threads, _with_margin(SCRATCH_FLOATS))

    def reserve(self, length: int) -> None:
        """Make room for the scores of so many positions."""
        if self.scores.shape[2] < length + _MARGIN:
            wide = _with_margin(1 << length.bit_length())
            self.scores = _zeros(self._threads, self._group, wide)


def _with_margin(width: int) -> int:
    return -(-(width + _MARGIN) // _LINE) * _LINE


def _zeros(*shape: int) -> Floats:
    """Starting at a line of the cache: a vector that reaches into the next one costs twice."""
    size = math.prod(shape)
    room = np.zeros(size + _LINE, dtype=np.float32)
    start = -room.ctypes.data % (4 * _LINE) // 4
    return room[start : start + size].reshape(shape)
