"""The decode step of a model's layers, its output layer and greedy choice, compiled.

Shape suffixes: B rows, H hidden size, V vocabulary, D head dimension, K key heads.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from tinsmith.nn.compiled.attention import BLOCK
from tinsmith.nn.compiled.buffers import Buffers, Floats, Scratch
from tinsmith.nn.compiled.choice import CHUNK
from tinsmith.nn.compiled.kernels import kernels
from tinsmith.nn.compiled.step import KEY, NUM_LINEARS, NUM_SLOTS, UP, VALUE
from tinsmith.nn.compiled.tables import (
    AdapterTable,
    LinearTable,
    NormTable,
    has_known_layers,
    is_usable,
    linears_of,
)
from tinsmith.nn.compiled.team import Team
from tinsmith.nn.compiled.tiles import TILE_ROWS
from tinsmith.nn.context import Segment
from tinsmith.nn.decoder import Decoder
from tinsmith.nn.lora import AdapterLinear

MOST_ROWS = 32
"""With more rows the products of torch are faster."""
BLOCK_TOKENS = BLOCK
"""Positions of a block of the KV cache."""


def supports(decoder: Decoder, head: AdapterLinear) -> bool:
    """Whether these layers can be run here: on the CPU, fp32 or bf16, not quantised."""
    return head.quantized is None and is_usable(head.weight) and has_known_layers(decoder)


class CompiledDecoder:
    """Over the very weights of `decoder` and `head`, in as many threads as torch takes at the time
    of a call. Not thread-safe.

    A row's result is the same, bit for bit, whatever rows are beside it and however many threads
    there are.
    """

    def __init__(self, decoder: Decoder, head: AdapterLinear) -> None:
        assert supports(decoder, head)
        layers = decoder.layers
        self._linears = LinearTable([linears_of(layer) for layer in layers])
        self._head = LinearTable([[head]])
        self._norms = NormTable(layers, decoder.norm)
        first = layers[0]
        self._hidden_size = first.query.in_features
        self._vocab_size = head.out_features
        self._head_dim = head_dim = first.head_dim
        self._query_width = first.query.out_features
        self._key_width = first.key.out_features
        self._gate_width = first.gate.out_features
        num_queries, num_keys = self._query_width // head_dim, self._key_width // head_dim
        self._sizes = np.array([num_queries, num_keys, head_dim, self._hidden_size])
        columns = np.zeros(NUM_LINEARS, dtype=np.int64)
        columns[KEY], columns[VALUE] = self._query_width, self._query_width + self._key_width
        columns[UP] = -(-self._gate_width // TILE_ROWS) * TILE_ROWS
        self._columns = columns
        scalings = [layer.rule.scaling for layer in layers]
        self._scalings = np.array(
            [head_dim**-0.5 if s is None else s for s in scalings], dtype=np.float32
        )
        self._windows = np.array([layer.rule.window or 0 for layer in layers], dtype=np.int64)
        self._buffers = Buffers()
        self._team: Team | None = None
        self._scratch: Scratch | None = None
        self._adapters = AdapterTable((), self._linears)
        self._head_adapters = AdapterTable((), self._head)

    def step(
        self,
        x_BH: Tensor,
        cos_BD: Tensor,
        sin_BD: Tensor,
        segments: Sequence[Segment],
        caches: Sequence[tuple[Tensor, Tensor]],
        tables: Tensor,
        positions: Tensor,
    ) -> Tensor:
        """One token for every row through all layers.

        Args:
            x_BH: the tokens' embeddings.
            cos_BD, sin_BD: of the rows' positions.
            segments: what adapters act on which rows. Keep passing the same tuple while nothing
                changes: what is made of it is kept for as long.
            caches: for each layer keys and values, fp32 [blocks, K, BLOCK_TOKENS, D]; the new
                token's are written to its block.
            tables: int32 [B, blocks], each row's blocks in order, the new token's included.
            positions: int64 [B], of the new tokens.

        Returns:
            Final hidden states, normalised, fp32 [B, H].
        """
        num_rows = len(positions)
        team, scratch = self._gathered()
        if segments is not self._adapters.segments:
            self._adapters = AdapterTable(segments, self._linears, self._adapters)
        x, hidden, *others = self._step_buffers(num_rows)
        torch.from_numpy(x)[:num_rows, : self._hidden_size] = x_BH
        scratch.reserve(int(positions.max()) + 1)
        team.run(
            kernels().decode_step,
            len(self._windows) * NUM_SLOTS + 1,
            (
                self._sizes,
                self._linears.records,
                self._columns,
                self._norms.addresses,
                self._norms.eps,
                self._scalings,
                self._windows,
            ),
            (self._adapters.pairs, self._adapters.scales, self._adapters.spans),
            (
                self._cache_addresses(caches),
                np.ascontiguousarray(tables.numpy(), dtype=np.int32),
                np.ascontiguousarray(positions.numpy(), dtype=np.int64),
            ),
            (_plain(cos_BD), _plain(sin_BD)),
            (x, hidden, *others),
            (scratch.heads, scratch.scores, scratch.tiles),
        )
        return torch.from_numpy(hidden)[:num_rows, : self._hidden_size].clone()

    def logits(self, hidden_BH: Tensor, segments: Sequence[Segment]) -> Tensor:
        """The output layer, fp32 [B, V]: a view that the next call writes over. The segments
        refer to the rows given here; as with `step`, pass the same tuple while nothing changes."""
        num_rows, rows = len(hidden_BH), self._buffers.rows
        team, scratch = self._gathered()
        if segments is not self._head_adapters.segments:
            self._head_adapters = AdapterTable(segments, self._head, self._head_adapters)
        adapters = self._head_adapters
        hidden = rows("head", num_rows, self._hidden_size)
        torch.from_numpy(hidden)[:num_rows, : self._hidden_size] = hidden_BH
        logits = rows("logits", num_rows, self._vocab_size)
        packed, h = self._packed(num_rows), rows("h", 3, num_rows, adapters.rank)
        team.run(
            kernels().head_step,
            NUM_SLOTS,
            self._head.records[0],
            (adapters.pairs[0], adapters.scales, adapters.spans),
            num_rows,
            self._hidden_size,
            (hidden, packed, logits, h, scratch.tiles),
        )
        return torch.from_numpy(logits)[:num_rows, : self._vocab_size]

    def choose_greedily(self, logits_BV: Tensor) -> tuple[Tensor, Tensor]:
        """The likeliest token, int64 [B], the lowest id among equals, and its log p, fp32 [B].

        Args:
            logits_BV: fp32; rows may lie apart, a row's logits may not.
        """
        num_rows, vocab_size = logits_BV.shape
        team, _ = self._gathered()
        apart = logits_BV.stride(0)
        if logits_BV.dtype != torch.float32 or logits_BV.stride(1) != 1 or apart < vocab_size:
            logits_BV = logits_BV.float().contiguous()
            apart = vocab_size
        tokens = np.zeros(num_rows, dtype=np.int64)
        logprobs = np.zeros(num_rows, dtype=np.float32)
        partial = np.zeros((2, num_rows, -(-vocab_size // CHUNK)))
        address = logits_BV.data_ptr()
        team.run(
            kernels().choose_greedily,
            1,
            *(address, apart, num_rows, vocab_size, partial, tokens, logprobs),
        )
        return torch.from_numpy(tokens), torch.from_numpy(logprobs)

    def _gathered(self) -> tuple[Team, Scratch]:
        """The team, and its threads' scratch memory."""
        num_threads = torch.get_num_threads()
        if self._team is None or self._scratch is None or self._team.num_threads != num_threads:
            self._team = Team(num_threads)
            num_queries, num_keys, head_dim = self._sizes[:3].tolist()
            self._scratch = Scratch(num_threads, num_queries // num_keys, head_dim)
        return self._team, self._scratch

    def _step_buffers(self, num_rows: int) -> tuple[Floats, ...]:
        """In decode_step's order."""
        rows, hidden_size = self._buffers.rows, self._hidden_size
        return (
            rows("x", num_rows, hidden_size),
            rows("hidden", num_rows, hidden_size),
            rows("qkv", num_rows, self._query_width + 2 * self._key_width),
            rows("seen", num_rows, self._query_width),
            rows("y", num_rows, hidden_size),
            rows("gates", num_rows, int(self._columns[UP]) + self._gate_width),
            rows("inner", num_rows, self._gate_width),
            self._packed(num_rows),
            rows("h", 3, num_rows, self._adapters.rank),
        )

    def _packed(self, num_rows: int) -> Floats:
        widest = max(self._query_width, self._gate_width, self._hidden_size)
        return self._buffers.rows("packed", num_rows, widest)

    def _cache_addresses(self, caches: Sequence[tuple[Tensor, Tensor]]) -> NDArray[np.int64]:
        blocks = (int(self._sizes[1]), BLOCK_TOKENS, self._head_dim)
        assert len(caches) == len(self._windows)
        for tensor in caches[0]:
            assert tensor.shape[1:] == blocks and tensor.dtype == torch.float32
            assert tensor.is_contiguous()
        return np.array([[k.data_ptr(), v.data_ptr()] for k, v in caches], dtype=np.int64)


def _plain(tensor: Tensor) -> Floats:
    return np.ascontiguousarray(tensor.numpy(), dtype=np.float32)
