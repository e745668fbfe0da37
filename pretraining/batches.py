"""Documents to token rows: packed side by side, each seeing only itself.

Shape suffixes: B rows, T tokens of a row.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from tokenizers import Tokenizer
from torch import Tensor

from pretraining.corpus import Document

QUESTION_WEIGHT = 0.3
"""Loss weight of text that is not the assistant's; the assistant's own has weight 1."""


@dataclass(frozen=True, slots=True)
class Batch:
    input_BT: Tensor
    target_BT: Tensor
    """The next token of the same document."""
    weight_BT: Tensor
    """Loss weight of each target; 0 where a document or a row ends."""
    position_BT: Tensor
    """Position inside the document."""
    mask_B1TT: Tensor
    """True where a query (row) may look at a key (column)."""


def encode(document: Document, tokenizer: Tokenizer) -> tuple[list[int], list[float]]:
    """Token ids, and the loss weight of each as a target."""
    ids: list[int] = []
    weights: list[float] = []
    for span in document:
        new = tokenizer.encode(span.text).ids
        ids += new
        weights += [1.0 if span.is_answer else QUESTION_WEIGHT] * len(new)
    return ids, weights


def batches(
    documents: Iterator[Document], tokenizer: Tokenizer, *, rows: int, row_tokens: int
) -> Iterator[Batch]:
    """Batches without end. A document that does not fit a row is cut at the row's length."""
    waiting: list[tuple[list[int], list[float]]] = []
    while True:
        packed = []
        for _ in range(rows):
            while len(waiting) < 4 * rows:
                waiting.append(encode(next(documents), tokenizer))
            packed.append(_fill_row(waiting, row_tokens))
        yield _stack(packed, row_tokens)


def _fill_row(
    waiting: list[tuple[list[int], list[float]]], row_tokens: int
) -> list[tuple[list[int], list[float]]]:
    """Take the oldest document, then whichever waiting ones still fit, the longest first."""
    ids, weights = waiting.pop(0)
    row = [(ids[: row_tokens + 1], weights[: row_tokens + 1])]
    room = row_tokens - (len(row[0][0]) - 1)
    while True:
        fitting = [i for i, (ids, _) in enumerate(waiting) if 1 < len(ids) - 1 <= room]
        if not fitting:
            return row
        best = max(fitting, key=lambda i: len(waiting[i][0]))
        row.append(waiting.pop(best))
        room -= len(row[-1][0]) - 1


def _stack(rows: Sequence[Sequence[tuple[list[int], list[float]]]], row_tokens: int) -> Batch:
    shape = (len(rows), row_tokens)
    input_BT = torch.zeros(shape, dtype=torch.long)
    target_BT = torch.zeros(shape, dtype=torch.long)
    weight_BT = torch.zeros(shape)
    position_BT = torch.zeros(shape, dtype=torch.long)
    owner_BT = torch.full(shape, -1)
    for b, row in enumerate(rows):
        at = 0
        for number, (ids, weights) in enumerate(row):
            stop = at + len(ids) - 1
            input_BT[b, at:stop] = torch.tensor(ids[:-1])
            target_BT[b, at:stop] = torch.tensor(ids[1:])
            weight_BT[b, at:stop] = torch.tensor(weights[1:])
            position_BT[b, at:stop] = torch.arange(stop - at)
            owner_BT[b, at:stop] = number
            at = stop
    same_BTT = owner_BT[:, :, None] == owner_BT[:, None, :]
    causal_TT = torch.ones(row_tokens, row_tokens, dtype=torch.bool).tril()
    return Batch(input_BT, target_BT, weight_BT, position_BT, (same_BTT & causal_TT)[:, None])
