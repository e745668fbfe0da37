"""Passes over sequences whose earlier tokens are in the KV cache.

Every pass first writes the keys and values of all its tokens and then attends through the
sequences' tables. So a token sees what earlier passes kept, what its own sequence adds in this
one, and, in blocks that sequences have in common, what another sequence of the pass adds.

Shape suffixes: T packed tokens, B sequences, N blocks, L positions.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from tinsmith.nn.kv_cache import BLOCK, KVCache
from tinsmith.nn.sequences import queries_by_span


@dataclass(frozen=True, slots=True, eq=False)
class Run:
    """Consecutive tokens of one sequence."""

    start: int
    """Packed place of the first."""
    position: int
    """Its place in the sequence; the cache holds what comes before."""
    length: int
    table: NDArray[np.int64]
    """The sequence's blocks, to the end of the run at least."""

    @property
    def end(self) -> int:
        """Positions that its last token sees."""
        return self.position + self.length


class Extend:
    """Runs of any length, packed one after another."""

    def __init__(self, cache: KVCache, runs: Sequence[Run]) -> None:
        self.cache = cache
        self.runs = runs
        self._masks: dict[tuple[int, int | None], Tensor] = {}

    @cached_property
    def position_T(self) -> Tensor:
        """int64: each token's place in its own sequence."""
        return torch.from_numpy(
            np.concatenate([np.arange(run.position, run.end) for run in self.runs])
        ).to(self.cache.device)

    @cached_property
    def slot_T(self) -> Tensor:
        """Where each token's keys and values go; see KVCache.write."""
        slots = []
        for run in self.runs:
            position = np.arange(run.position, run.end)
            slots.append(run.table[position // BLOCK] * BLOCK + position % BLOCK)
        return torch.from_numpy(np.concatenate(slots)).to(self.cache.device)

    def queries_of(self, chosen_M: NDArray[np.int64]) -> list[NDArray[np.int64] | None]:
        """See sequences.queries_by_span; the spans are the runs."""
        starts, lengths = zip(*((run.start, run.length) for run in self.runs), strict=True)
        return queries_by_span(starts, lengths, chosen_M)

    @cached_property
    def blocks(self) -> list[Tensor]:
        """For each run the blocks that hold what its tokens see."""
        return [
            torch.from_numpy(run.table[: -(-run.end // BLOCK)]).to(self.cache.device)
            for run in self.runs
        ]

    def mask(self, number: int, window: int | None) -> Tensor:
        """bool [length, end] of one run, True where a token sees a position. Made once and kept,
        since every layer asks for it."""
        if (number, window) not in self._masks:
            run, device = self.runs[number], self.cache.device
            query_Q1 = torch.arange(run.position, run.end, device=device)[:, None]
            key_L = torch.arange(run.end, device=device)
            mask = key_L <= query_Q1
            if window is not None:
                mask &= key_L > query_Q1 - window
            self._masks[number, window] = mask
        return self._masks[number, window]


class Decode:
    """One token of each of B sequences."""

    def __init__(
        self, cache: KVCache, tables_BN: NDArray[np.int32], position_B: NDArray[np.int64]
    ) -> None:
        """
        Args:
            tables_BN: the sequences' blocks; beyond a sequence's own any block that exists.
            position_B: each token's place in its sequence; the cache holds what comes before.
        """
        self.cache = cache
        self.tables_BN = tables_BN
        self.positions = position_B
        self._masks: dict[int | None, Tensor] = {}

    @cached_property
    def position_B(self) -> Tensor:
        return torch.from_numpy(self.positions).to(self.cache.device)

    @cached_property
    def slot_B(self) -> Tensor:
        """Where each token's keys and values go; see KVCache.write."""
        block_B = self.tables_BN[np.arange(len(self.positions)), self.positions // BLOCK]
        slots = block_B.astype(np.int64) * BLOCK + self.positions % BLOCK
        return torch.from_numpy(slots).to(self.cache.device)

    @cached_property
    def _block_M(self) -> Tensor:
        return torch.from_numpy(self.tables_BN.astype(np.int64).ravel()).to(self.cache.device)

    def read(self, layer: int) -> tuple[Tensor, Tensor]:
        """Copies [B, K, L, D] of all that the sequences' tables name, with zeros in the place of
        what lies behind a sequence's token: masking alone would let NaN through."""
        behind = ~self.mask(None).transpose(2, 3)
        keys, values = (
            tensor.index_select(0, self._block_M)
            .unflatten(0, self.tables_BN.shape)
            .transpose(1, 2)
            .flatten(2, 3)
            .masked_fill_(behind, 0.0)
            for tensor in self.cache.layer(layer)
        )
        return keys, values

    def mask(self, window: int | None) -> Tensor:
        """bool [B, 1, 1, L], True at the positions that a token sees."""
        if window not in self._masks:
            position_L = torch.arange(self.tables_BN.shape[1] * BLOCK, device=self.cache.device)
            last_B1 = self.position_B[:, None]
            mask = position_L <= last_B1
            if window is not None:
                mask &= position_L > last_B1 - window
            self._masks[window] = mask[:, None, None, :]
        return self._masks[window]
