"""Which hidden states and which log-probabilities a micro-batch needs, each once.

Datums that share their heads also share most targets there: the same packed token with the same
target is scored once, and every datum reads the one value (their gradients add up in it).

Shape suffixes: N positions of all datums one after another, K targets per position, A asked ones of
the N, U different (packed place, targets), M different packed places.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, slots=True, eq=False)
class Scored:
    shape: tuple[int, int]
    """N, K."""
    position_A: NDArray[np.int64]
    """The asked positions, ascending."""
    unique_A: NDArray[np.int64]
    """Which of the U each one reads."""
    target_UK: NDArray[np.int64]
    needs_grad_U: NDArray[np.bool_]
    row_U: NDArray[np.int64]
    """Which of the M each one is scored from."""
    place_M: NDArray[np.int64]
    """Packed places, ascending."""

    @classmethod
    def of(
        cls,
        place_N: NDArray[np.int64],
        target_NK: NDArray[np.int64],
        asked_N: NDArray[np.bool_],
        needs_grad_N: NDArray[np.bool_],
    ) -> Scored:
        """
        Args:
            place_N: the packed place whose hidden state predicts each position's targets.
            asked_N: where logprobs are wanted at all.
            needs_grad_N: where gradients come from; only asked positions count.
        """
        position_A = asked_N.nonzero()[0]
        what_A = np.column_stack([place_N[position_A], target_NK[position_A]])
        what_U, unique_A = np.unique(what_A, axis=0, return_inverse=True)
        unique_A = unique_A.reshape(-1)
        needs_grad_U = np.zeros(len(what_U), dtype=np.bool_)
        needs_grad_U[unique_A[needs_grad_N[position_A]]] = True
        place_M, row_U = np.unique(what_U[:, 0], return_inverse=True)
        return cls(
            (len(target_NK), target_NK.shape[1]),
            position_A,
            unique_A,
            np.ascontiguousarray(what_U[:, 1:]),
            needs_grad_U,
            row_U.reshape(-1),
            place_M,
        )
