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

from tinsmith.engine.base_model import Places


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
    place_U: NDArray[np.int64]
    """The packed place that each one is scored from."""
    row_U: NDArray[np.int64]
    """The same among `places`."""
    places: Places
    """The M."""

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
        place_U = what_U[:, 0]
        differentiable = np.unique(place_U[needs_grad_U])
        constant = np.setdiff1d(place_U, differentiable)
        row_U = np.where(
            np.isin(place_U, differentiable),
            np.searchsorted(differentiable, place_U),
            len(differentiable) + np.searchsorted(constant, place_U),
        )
        return cls(
            (len(target_NK), target_NK.shape[1]),
            position_A,
            unique_A,
            np.ascontiguousarray(what_U[:, 1:]),
            needs_grad_U,
            place_U,
            row_U,
            Places(differentiable, constant),
        )
