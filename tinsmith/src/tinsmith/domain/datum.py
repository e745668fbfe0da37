"""One training example as the Tinker API defines it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

TARGETS = "target_tokens"
"""The loss input that every datum carries, whatever the loss."""


@dataclass(frozen=True, slots=True, eq=False)
class Datum:
    """Input tokens and the loss's inputs, aligned by position.

    Position i of the input predicts target i: the client has already shifted.
    """

    tokens: NDArray[np.int32]
    """Input token ids, shape [N]."""
    loss_fn_inputs: Mapping[str, NDArray[np.generic]]
    """Dense arrays by name (`target_tokens`, `weights`, ...), float32 or int64, shape [N] or
    [N, K]. Sparse ones have been expanded; entries that were not listed are 0."""
