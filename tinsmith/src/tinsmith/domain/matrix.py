"""Matrices as the API has them: dense, or a few cells in rows of any width."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

NO_TARGET = -1
"""In a matrix of token ids: a cell without one."""


@dataclass(frozen=True, slots=True, eq=False)
class Matrix:
    """A matrix that is never expanded: a few bytes of a sparse one can stand for any width."""

    shape: tuple[int, int]
    values: NDArray[np.generic]
    """Row by row: of a dense matrix all of them, of a sparse one those that are listed."""
    row_starts: NDArray[np.int64] | None = None
    """Compressed sparse rows: row i holds the values from row_starts[i] to row_starts[i + 1]. None:
    dense."""
    columns: NDArray[np.int64] | None = None
    """Of each value; None: dense."""

    @property
    def rows(self) -> NDArray[np.int64]:
        """The row of each value, ascending."""
        if self.row_starts is None:
            return np.repeat(np.arange(self.shape[0]), self.shape[1])
        return np.repeat(np.arange(self.shape[0]), np.diff(self.row_starts))
