"""Which sequences go through the model together. Pure, so that a replay packs alike."""

from __future__ import annotations

from collections.abc import Sequence


def pack_in_order(lengths: Sequence[int], token_budget: int) -> list[range]:
    """Cut a list of sequences into micro-batches of neighbours.

    Args:
        lengths: tokens of each sequence.
        token_budget: the most tokens in one micro-batch; a longer sequence goes alone.

    Returns:
        Ranges of indices that cover the list in order, none of them empty.
    """
    packs, start, tokens = [], 0, 0
    for index, length in enumerate(lengths):
        if index > start and tokens + length > token_budget:
            packs.append(range(start, index))
            start, tokens = index, 0
        tokens += length
    if start < len(lengths):
        packs.append(range(start, len(lengths)))
    return packs
