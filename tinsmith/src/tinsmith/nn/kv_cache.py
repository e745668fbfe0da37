"""Keys and values of the sequences being generated, one row per sequence.

Rows [0, num_rows) are in use. A row that is done is filled with the last one, so the rows in use
stay contiguous and attention reads them without a gather. Memory grows by doubling.

Shape suffixes: B rows, H key/value heads, L positions, D head dimension.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


class KVCache:
    """Per layer K and V [row capacity, H, length capacity, D], made at a layer's first write."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.lengths: list[int] = []
        """Tokens held by each row; their number is the number of rows."""
        self._layers: dict[int, tuple[Tensor, Tensor]] = {}
        self._row_capacity = 0
        self._length_capacity = 0
        self._step_masks: dict[int | None, Tensor | None] = {}
        self._positions = torch.zeros(0, dtype=torch.int64, device=device)
        self._rows = torch.zeros(0, dtype=torch.int64, device=device)

    @property
    def num_rows(self) -> int:
        return len(self.lengths)

    @staticmethod
    def capacity_tokens(num_rows: int, length: int) -> int:
        """Tokens that memory is taken for when there are so many rows of at most this length."""
        return _power_of_two(num_rows) * _power_of_two(length)

    def add_rows(self, lengths: Sequence[int]) -> int:
        """Make room for sequences of these lengths; returns the first one's row. Their keys and
        values are undefined until write_prompt (or copy_row) has filled them in every layer."""
        first = self.num_rows
        self._reserve(first + len(lengths), max([*self.lengths, *lengths]))
        self.lengths.extend(lengths)
        return first

    def write_prompt(self, layer: int, row: int, k_HLD: Tensor, v_HLD: Tensor) -> None:
        """Fill a row from position 0 on with one layer's keys and values."""
        if layer not in self._layers:
            self._layers[layer] = (self._allocate(k_HLD), self._allocate(v_HLD))
        keys, values = self._layers[layer]
        keys[row, :, : k_HLD.shape[1]] = k_HLD
        values[row, :, : v_HLD.shape[1]] = v_HLD

    def copy_row(self, source: int, times: int) -> int:
        """Append copies of a filled row; returns the first copy's row."""
        length = self.lengths[source]
        first = self.add_rows([length] * times)
        for keys, values in self._layers.values():
            keys[first : first + times, :, :length] = keys[source, :, :length]
            values[first : first + times, :, :length] = values[source, :, :length]
        return first

    def begin_step(self) -> Tensor:
        """Make room for one more token in every row; returns their positions, int64 [B]."""
        self._reserve(self.num_rows, max(self.lengths) + 1)
        self._positions = torch.tensor(self.lengths, dtype=torch.int64, device=self.device)
        self._rows = torch.arange(self.num_rows, device=self.device)
        self._step_masks = {}
        self.lengths = [length + 1 for length in self.lengths]
        return self._positions

    def write_step(self, layer: int, k_BHD: Tensor, v_BHD: Tensor) -> tuple[Tensor, Tensor]:
        """Store the step's keys and values; returns all of them as views [B, H, L, D], where L
        is the longest row: step_mask tells what of it is real."""
        keys, values = self._layers[layer]
        keys[self._rows, :, self._positions] = k_BHD
        values[self._rows, :, self._positions] = v_BHD
        rows, length = self.num_rows, max(self.lengths)
        return keys[:rows, :, :length], values[:rows, :, :length]

    def step_mask(self, window: int | None) -> Tensor | None:
        """bool [B, 1, 1, L], True at the positions that the step's token attends to: all of its
        row, or the last `window` of them. None where that is everything."""
        if window not in self._step_masks:
            longest = max(self.lengths)
            mask = None
            if min(self.lengths) < longest or (window is not None and window < longest):
                position_L = torch.arange(longest, device=self.device)
                last_B1 = self._positions.unsqueeze(1)
                mask = position_L <= last_B1
                if window is not None:
                    mask &= position_L > last_B1 - window
                mask = mask[:, None, None, :]
            self._step_masks[window] = mask
        return self._step_masks[window]

    def remove_rows(self, rows: Sequence[int]) -> list[tuple[int, int]]:
        """Drop rows; returns the moves (from, to) that closed the holes, for the caller to apply
        to what it keeps per row."""
        gone = set(rows)
        remaining = self.num_rows - len(gone)
        holes = sorted(row for row in gone if row < remaining)
        movers = [row for row in range(remaining, self.num_rows) if row not in gone]
        moves = list(zip(movers, holes, strict=True))
        if remaining == 0:
            # An unusually long sequence must not fix the size of every later row.
            self._layers.clear()
            self._row_capacity = self._length_capacity = 0
        elif moves:
            length = max(self.lengths[row] for row in movers)
            source = torch.tensor(movers, device=self.device)
            target = torch.tensor(holes, device=self.device)
            for keys, values in self._layers.values():
                keys[target, :, :length] = keys[source, :, :length]
                values[target, :, :length] = values[source, :, :length]
        for source_row, target_row in moves:
            self.lengths[target_row] = self.lengths[source_row]
        del self.lengths[remaining:]
        return moves

    def _reserve(self, num_rows: int, length: int) -> None:
        """Grow by doubling, to at least these many rows of at least this length. Both are chosen
        anew at each growth, so that a long sequence that has left leaves no trace."""
        if num_rows <= self._row_capacity and length <= self._length_capacity:
            return
        row_capacity, length_capacity = _power_of_two(num_rows), _power_of_two(length)
        kept = max(self.lengths, default=0)
        for layer, old in self._layers.items():
            new = tuple(
                # Zeros, as what attention masks out must still be finite.
                tensor.new_zeros(row_capacity, tensor.shape[1], length_capacity, tensor.shape[3])
                for tensor in old
            )
            for source, target in zip(old, new, strict=True):
                rows = self.num_rows
                target[:rows, :, :kept] = source[:rows, :, :kept]
            self._layers[layer] = (new[0], new[1])
        self._row_capacity, self._length_capacity = row_capacity, length_capacity

    def _allocate(self, k_HLD: Tensor) -> Tensor:
        num_heads, _, head_dim = k_HLD.shape
        return k_HLD.new_zeros(self._row_capacity, num_heads, self._length_capacity, head_dim)


def _power_of_two(at_least: int) -> int:
    return 1 << (at_least - 1).bit_length()
