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
    kind_BT: Tensor
    """Number of the kind of message a token belongs to; -1 in answers and where there is none."""
    position_BT: Tensor
    """Position inside the document."""
    mask_B1TT: Tensor
    """True where a query (row) may look at a key (column)."""


@dataclass(frozen=True, slots=True)
class Encoded:
    """A document as tokens. All lists have one length."""

    ids: list[int]
    weights: list[float]
    """The loss weight of each token as a target."""
    kinds: list[int]

    def __len__(self) -> int:
        """Tokens of input: the last one is a target only."""
        return len(self.ids) - 1

    def cut(self, num_tokens: int) -> "Encoded":
        stop = num_tokens + 1
        return Encoded(self.ids[:stop], self.weights[:stop], self.kinds[:stop])


def encode(document: Document, tokenizer: Tokenizer) -> Encoded:
    """The document's tokens, answers with full loss weight."""
    encoded = Encoded([], [], [])
    for span in document.spans:
        new = tokenizer.encode(span.text).ids
        kind = -1 if span.is_answer or document.kind is None else document.kind
        encoded.ids.extend(new)
        encoded.weights.extend([1.0 if span.is_answer else QUESTION_WEIGHT] * len(new))
        encoded.kinds.extend([kind] * len(new))
    return encoded


def batches(
    documents: Iterator[Document], tokenizer: Tokenizer, *, rows: int, row_tokens: int
) -> Iterator[Batch]:
    """Batches without end. A document that does not fit a row is cut at the row's length."""
    waiting: list[Encoded] = []
    while True:
        packed = []
        for _ in range(rows):
            while len(waiting) < 4 * rows:
                waiting.append(encode(next(documents), tokenizer))
            packed.append(_fill_row(waiting, row_tokens))
        yield _stack(packed, row_tokens)


def _fill_row(waiting: list[Encoded], row_tokens: int) -> list[Encoded]:
    """Take the oldest document, then whichever waiting ones still fit, the longest first."""
    row = [waiting.pop(0).cut(row_tokens)]
    room = row_tokens - len(row[0])
    while fitting := [i for i, document in enumerate(waiting) if len(document) <= room]:
        row.append(waiting.pop(max(fitting, key=lambda i: len(waiting[i]))))
        room -= len(row[-1])
    return row


def _stack(rows: Sequence[Sequence[Encoded]], row_tokens: int) -> Batch:
    shape = (len(rows), row_tokens)
    input_BT = torch.zeros(shape, dtype=torch.long)
    target_BT = torch.zeros(shape, dtype=torch.long)
    weight_BT = torch.zeros(shape)
    kind_BT = torch.full(shape, -1)
    position_BT = torch.zeros(shape, dtype=torch.long)
    owner_BT = torch.full(shape, -1)
    for b, row in enumerate(rows):
        at = 0
        for number, document in enumerate(row):
            stop = at + len(document)
            input_BT[b, at:stop] = torch.tensor(document.ids[:-1])
            target_BT[b, at:stop] = torch.tensor(document.ids[1:])
            weight_BT[b, at:stop] = torch.tensor(document.weights[1:])
            kind_BT[b, at:stop] = torch.tensor(document.kinds[:-1])
            position_BT[b, at:stop] = torch.arange(stop - at)
            owner_BT[b, at:stop] = number
            at = stop
    same_BTT = owner_BT[:, :, None] == owner_BT[:, None, :]
    causal_TT = torch.ones(row_tokens, row_tokens, dtype=torch.bool).tril()
    mask_B1TT = (same_BTT & causal_TT)[:, None]
    return Batch(input_BT, target_BT, weight_BT, kind_BT, position_BT, mask_B1TT)
