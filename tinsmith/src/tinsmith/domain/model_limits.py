"""What fits a base model: how many tokens, and which."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tinsmith.domain.errors import InvalidInputError

OTHERS_MASK_TOKEN = -100
"""Where other libraries mark a target that does not count; the Tinker API has weights for that."""


@dataclass(frozen=True, slots=True)
class ModelLimits:
    vocab_size: int
    max_context: int
    """Longest sequence in tokens, prompt and answer together."""


def check_sequence(tokens: NDArray[np.generic], place: str, limits: ModelLimits) -> None:
    """Raises InvalidInputError unless `tokens` could be read by the model in one go."""
    if tokens.ndim != 1 or tokens.size == 0:
        raise InvalidInputError(
            f"{place} has shape {list(tokens.shape)}; expected [N] with at least one token"
        )
    if tokens.size > limits.max_context:
        raise InvalidInputError(
            f"{place} has {tokens.size} tokens; the model's context holds {limits.max_context}"
        )
    check_token_ids(tokens, place, limits.vocab_size)


def check_token_ids(ids: NDArray[np.generic], place: str, vocab_size: int) -> None:
    """Raises InvalidInputError that names the first id outside the vocabulary and its place."""
    is_outside = (ids < 0) | (ids >= vocab_size)  # type: ignore[operator]
    if is_outside.any():
        first = first_place(is_outside)
        hint = "; to mask a target, give it weight 0" if ids[first] == OTHERS_MASK_TOKEN else ""
        raise InvalidInputError(
            f"{place}{shown_place(first)} is token id {int(ids[first])}; the model's vocabulary "
            f"has ids 0 to {vocab_size - 1}{hint}"
        )


def first_place(is_bad: NDArray[np.bool_]) -> tuple[int, ...]:
    """Index of the first True."""
    return tuple(int(i) for i in np.argwhere(is_bad)[0])


def shown_place(index: tuple[int, ...]) -> str:
    return f"[{', '.join(str(i) for i in index)}]"
