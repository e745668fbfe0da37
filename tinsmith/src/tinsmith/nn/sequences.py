"""Several sequences side by side in one packed row of tokens, without padding, and with what they
have in common at their heads only once.

The pack is a forest of spans. A span is a run of tokens that some sequences share; its ancestors
are the spans before it in those sequences. Everything in a decoder but attention looks at one token
at a time, so a shared token is computed once, forward and backward; in attention a span's tokens
see its ancestors' and, causally, their own (the trie of Zheng et al., "SGLang: Efficient Execution
of Structured Language Model Programs", 2023, section 3, in training).

Shape suffixes: T packed tokens, N tokens of all sequences one after another, Q queries, L keys.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

Tokens = NDArray[np.generic]

LEAST_SHARED = 16
"""Shorter common heads are computed for each sequence: a span costs an attention call."""


@dataclass(frozen=True, slots=True)
class Span:
    """Tokens [start, start + length) of the pack, from `position` on in their sequences."""

    start: int
    length: int
    position: int
    ancestors: tuple[int, ...] = ()
    """Numbers of the spans before it, from the first token on; their lengths add up to
    `position`."""

    @property
    def stop(self) -> int:
        return self.start + self.length


class PackedSequences:
    """Where each sequence's tokens lie in the pack."""

    def __init__(self, lengths: Sequence[int], device: torch.device) -> None:
        """Sequences with nothing in common."""
        starts = np.concatenate([[0], np.cumsum(lengths)])
        self._lay_out(
            [Span(int(start), int(n), 0) for start, n in zip(starts, lengths, strict=False)],
            [np.arange(start, start + n) for start, n in zip(starts, lengths, strict=False)],
            device,
        )

    @classmethod
    def sharing(cls, sequences: Sequence[Tokens], device: torch.device) -> PackedSequences:
        """Sequences of token ids; common heads of LEAST_SHARED tokens and more are packed once."""
        packed = cls.__new__(cls)
        spans: list[Span] = []
        places: list[list[NDArray[np.int64]]] = [[] for _ in sequences]
        _share(sequences, list(range(len(sequences))), 0, (), spans, places)
        packed._lay_out(spans, [np.concatenate(parts) for parts in places], device)
        return packed

    def _lay_out(
        self, spans: list[Span], places: Sequence[NDArray[np.int64]], device: torch.device
    ) -> None:
        self.spans = spans
        self.places = places
        """For each sequence the packed place of each of its tokens."""
        self.device = device
        self.lengths = [span.length for span in spans]
        """Of the spans."""
        self.num_tokens = sum(self.lengths)
        self.max_length = max(self.lengths)
        self._masks: dict[tuple[int, int | None, torch.dtype], Tensor] = {}

    @property
    def is_shared(self) -> bool:
        """Whether any span has ancestors."""
        return any(span.ancestors for span in self.spans)

    @property
    def is_rectangular(self) -> bool:
        """Whether all spans have one length, so that a reshape pads nothing."""
        return self.num_tokens == self.max_length * len(self.lengths)

    @cached_property
    def position_ids(self) -> Tensor:
        """int64 [1, T]: each token's place in its own sequences."""
        positions = [
            torch.arange(span.position, span.position + span.length) for span in self.spans
        ]
        return torch.cat(positions).unsqueeze(0).to(self.device)

    @cached_property
    def starts(self) -> list[int]:
        """The packed place of each span's first token."""
        return [span.start for span in self.spans]

    def token_ids(self, sequences: Sequence[Tokens]) -> Tensor:
        """int64 [T]: the pack of these sequences' tokens, which must be those it was made for."""
        token_T = np.empty(self.num_tokens, dtype=np.int64)
        for place, tokens in zip(self.places, sequences, strict=True):
            token_T[place] = tokens
        return torch.from_numpy(token_T).to(self.device)

    def queries_of(self, chosen_M: NDArray[np.int64]) -> list[NDArray[np.int64] | None]:
        """For each span, which of its tokens are among `chosen_M` (ascending packed places),
        counted from the span's start; None where all are."""
        return queries_by_span(self.starts, self.lengths, chosen_M)

    def mask(self, number: int, window: int | None, dtype: torch.dtype) -> Tensor:
        """[length, position + length] of one span: 0 where a token sees a key, -inf elsewhere.
        Made once and kept, since every layer asks for it.

        Args:
            number: the span's.
            window: a token sees only this many latest tokens, itself included.
        """
        key = (number, window, dtype)
        if key not in self._masks:
            span = self.spans[number]
            key_L = torch.arange(span.position + span.length, device=self.device)
            distance_QL = key_L[span.position :, None] - key_L
            hidden_QL = distance_QL < 0
            if window is not None:
                hidden_QL |= distance_QL >= window
            mask_QL = torch.zeros(hidden_QL.shape, dtype=dtype, device=self.device)
            self._masks[key] = mask_QL.masked_fill_(hidden_QL, -torch.inf)
        return self._masks[key]

    @cached_property
    def token_of_cell(self) -> Tensor:
        """int64 [spans * max_length]: the packed token in each cell of the right-padded form.

        Padding cells hold the span's last token: they stand behind every real token, so causal
        attention never shows them to one, and no gradient comes back from them.
        """
        rows = [
            span.start + torch.arange(self.max_length).clamp_(max=span.length - 1)
            for span in self.spans
        ]
        return torch.cat(rows).to(self.device)

    @cached_property
    def cell_of_token(self) -> Tensor:
        """int64 [T]: the cell of each packed token in the right-padded form."""
        cells = [
            row * self.max_length + torch.arange(length) for row, length in enumerate(self.lengths)
        ]
        return torch.cat(cells).to(self.device)


def _share(
    sequences: Sequence[Tokens],
    members: list[int],
    depth: int,
    ancestors: tuple[int, ...],
    spans: list[Span],
    places: list[list[NDArray[np.int64]]],
) -> None:
    """Append the spans of these sequences from `depth` on, where all before is shared."""
    alike: dict[bytes, list[int]] = {}
    for member in members:
        # A rest shorter than LEAST_SHARED meets its equal only where whole sequences are equal.
        head = np.asarray(sequences[member][depth : depth + LEAST_SHARED], dtype=np.int64)
        alike.setdefault(head.tobytes(), []).append(member)
    for group in alike.values():
        length = _common_length([sequences[member] for member in group], depth)
        if length == 0:
            continue
        start = spans[-1].stop if spans else 0
        spans.append(Span(start, length, depth, ancestors))
        here = (*ancestors, len(spans) - 1)
        for member in group:
            places[member].append(np.arange(start, start + length))
        rest = [member for member in group if len(sequences[member]) > depth + length]
        if rest:
            _share(sequences, rest, depth + length, here, spans, places)


def _common_length(group: Sequence[Tokens], depth: int) -> int:
    first, *others = (sequence[depth:] for sequence in group)
    length = len(first)
    for other in others:
        length = min(length, len(other))
        differs = np.nonzero(first[:length] != other[:length])[0]
        if len(differs):
            length = int(differs[0])
    return length


def queries_by_span(
    starts: Sequence[int], lengths: Sequence[int], chosen_M: NDArray[np.int64]
) -> list[NDArray[np.int64] | None]:
    """For each span of a pack, which of its tokens are among `chosen_M` (ascending packed places),
    counted from the span's start; None where all are."""
    bounds = np.searchsorted(chosen_M, [*starts, starts[-1] + lengths[-1]])
    return [
        None if stop - start == length else chosen_M[start:stop] - first
        for first, length, start, stop in zip(starts, lengths, bounds, bounds[1:], strict=False)
    ]
