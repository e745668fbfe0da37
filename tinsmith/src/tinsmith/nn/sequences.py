"""Several sequences side by side in one packed row of tokens, without padding."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property

import torch
from torch import Tensor


class PackedSequences:
    """Where each sequence lies in the pack. B sequences, T = sum of their lengths tokens."""

    def __init__(self, lengths: Sequence[int], device: torch.device) -> None:
        self.lengths = list(lengths)
        self.device = device
        self.num_tokens = sum(self.lengths)
        self.max_length = max(self.lengths)

    @property
    def is_rectangular(self) -> bool:
        """Whether all sequences have one length, so that a reshape pads nothing."""
        return self.num_tokens == self.max_length * len(self.lengths)

    @cached_property
    def position_ids(self) -> Tensor:
        """int64 [1, T], starting at 0 in each sequence."""
        positions = torch.cat([torch.arange(length) for length in self.lengths])
        return positions.unsqueeze(0).to(self.device)

    @cached_property
    def starts(self) -> list[int]:
        """The packed position of each sequence's first token."""
        starts, start = [], 0
        for length in self.lengths:
            starts.append(start)
            start += length
        return starts

    @cached_property
    def token_of_cell(self) -> Tensor:
        """int64 [B * max_length]: the packed token in each cell of the right-padded form.

        Padding cells hold the sequence's last token: they stand behind every real token, so
        causal attention never shows them to one, and no gradient comes back from them.
        """
        rows = [
            start + torch.arange(self.max_length).clamp_(max=length - 1)
            for start, length in zip(self.starts, self.lengths, strict=True)
        ]
        return torch.cat(rows).to(self.device)

    @cached_property
    def cell_of_token(self) -> Tensor:
        """int64 [T]: the cell of each packed token in the right-padded form."""
        cells = [
            row * self.max_length + torch.arange(length) for row, length in enumerate(self.lengths)
        ]
        return torch.cat(cells).to(self.device)
