"""Keys and values of sequences being generated, in blocks that several sequences may share.

A block has room for BLOCK consecutive positions of every layer. Which blocks make up a sequence, in
their order, is its table; who owns which is not known here. Blocks let sequences grow without
moving, and let those with a common beginning keep it once (Kwon et al., "Efficient Memory
Management for Large Language Model Serving with PagedAttention", 2023, section 4).

Shape suffixes: N blocks, K key/value heads, D head dimension, T tokens, L positions.
"""

from __future__ import annotations

import torch
from torch import Tensor

from tinsmith.nn.compiled.paged import PagedAttention

BLOCK = 16
"""Positions in a block."""
_LEAST = 64


class KVCache:
    """Per layer K and V [N, K, BLOCK, D], made at a layer's first write. What a block held before
    stays in it until it is written to: readers must not look past a sequence's end."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self._num_blocks = 0
        self._layers: dict[int, tuple[Tensor, Tensor]] = {}
        self.attention = PagedAttention()
        """Of a decode step, where the device and dtype are such that it supports them."""

    def reserve(self, num_blocks: int) -> None:
        """Make room for blocks 0 to num_blocks - 1, growing by doubling."""
        if num_blocks <= self._num_blocks:
            return
        held, self._num_blocks = self._num_blocks, max(_LEAST, 1 << (num_blocks - 1).bit_length())
        for layer, pair in list(self._layers.items()):
            grown = [old.new_empty(self._num_blocks, *old.shape[1:]) for old in pair]
            for new, old in zip(grown, pair, strict=True):
                new[:held] = old
            self._layers[layer] = (grown[0], grown[1])

    def clear(self) -> None:
        """Give all memory back."""
        self._num_blocks = 0
        self._layers.clear()

    def layer(self, layer: int) -> tuple[Tensor, Tensor]:
        """All keys and values of a layer that was written to, [N, K, BLOCK, D] each."""
        return self._layers[layer]

    def allocate(self, layer: int, num_heads: int, head_dim: int, dtype: torch.dtype) -> None:
        """Make a layer's tensors, if it has none."""
        if layer not in self._layers:
            shape = (self._num_blocks, num_heads, BLOCK, head_dim)
            keys = torch.empty(shape, dtype=dtype, device=self.device)
            self._layers[layer] = (keys, torch.empty_like(keys))

    def write(self, layer: int, slot_T: Tensor, k_TKD: Tensor, v_TKD: Tensor) -> None:
        """Store tokens' keys and values. A slot is block * BLOCK + the place in it, int64."""
        self.allocate(layer, k_TKD.shape[1], k_TKD.shape[2], k_TKD.dtype)
        block_T, place_T = slot_T // BLOCK, slot_T % BLOCK
        for tensor, new in zip(self._layers[layer], (k_TKD, v_TKD), strict=True):
            tensor[block_T, :, place_T] = new

    def read(self, layer: int, block_N: Tensor, length: int) -> tuple[Tensor, Tensor]:
        """Copies [K, length, D] of the keys and values at a table's first `length` positions."""
        keys, values = (
            tensor.index_select(0, block_N).transpose(0, 1).flatten(1, 2)[:, :length]
            for tensor in self._layers[layer]
        )
        return keys, values

    def copy(self, source: int, target: int) -> None:
        """Copy a block, all layers."""
        for pair in self._layers.values():
            for tensor in pair:
                tensor[target] = tensor[source]
