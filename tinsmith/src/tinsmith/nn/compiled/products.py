"""Products with frozen weights and with adapters' matrices, shared out among threads.

A piece of work is a chunk of a matrix's rows; whoever is free takes the next one, so a thread that
the operating system holds up does not hold up the others.

Shape suffixes: B rows, I inputs, O outputs, R rank.
"""

# pyright: reportIndexIssue=false, reportAttributeAccessIssue=false
from __future__ import annotations

from typing import Any

import numpy as np

from tinsmith.nn.compiled.elementwise import add, add_scaled
from tinsmith.nn.compiled.memory import address_of, floats, ticket
from tinsmith.nn.compiled.tiles import TILE_ROWS, TILE_VECTORS, dot_tile
from tinsmith.nn.compiled.vectors import LANES, jit

WEIGHT, BIAS, OUTPUTS, INPUTS, IS_BF16, LINEAR_FIELDS = range(6)
"""A linear layer's record: addresses (bias 0: none), sizes, and whether the weight is bf16."""
A, B, RANK, PAIR_FIELDS = range(4)
"""A pair's record: addresses, and the rank; 0 where the adapter leaves the layer alone."""
SCRATCH_FLOATS = TILE_ROWS * TILE_VECTORS
"""That add_up_projection needs for each thread."""

_CHUNK_BYTES = 1 << 17
_AHEAD = 2048
"""Bytes by which reading is ahead where no second pass over the rows hides it."""


@jit
def _chunk_rows(num_rows: int, row_bytes: int, num_threads: int) -> int:
    """Rows of a piece of work: some 128 KB, unless that leaves a thread without work."""
    rows = max(_CHUNK_BYTES // max(row_bytes, 1), 1)
    if num_threads > 1:
        rows = min(rows, (num_rows + num_threads - 1) // num_threads)
    return (rows + TILE_ROWS - 1) // TILE_ROWS * TILE_ROWS


@jit
def _rows_product(
    weight: int,
    row_bytes: int,
    is_bf16: int,
    inputs: int,
    first: int,
    end: int,
    x: int,
    x_stride: int,
    num_vectors: int,
    out: int,
    out_stride: int,
) -> None:
    """Rows [first, end) of W with all vectors. Addresses and strides in bytes."""
    passes = (num_vectors + TILE_VECTORS - 1) // TILE_VECTORS
    tile_bytes = TILE_ROWS * row_bytes
    for row in range(first, end, TILE_ROWS):
        start = weight + row * row_bytes
        rows = min(TILE_ROWS, end - row)
        for number in range(passes):
            # While the first rows meet one group of vectors after another, the next rows come.
            if passes == 1:
                ahead, step = start + _AHEAD, 64
            else:
                ahead = start + tile_bytes + tile_bytes // passes * number
                step = max(TILE_ROWS * 64 // passes, 1)
            m = number * TILE_VECTORS
            arguments = (
                min(TILE_VECTORS, num_vectors - m),
                is_bf16,
                start,
                row_bytes,
                rows,
                x + m * x_stride,
                x_stride,
                inputs,
                out + m * out_stride + 4 * row,
                out_stride,
                ahead,
                step,
            )
            dot_tile(arguments)


@jit(inline="always")
def product(
    linear: Any,
    x_BI: Any,
    packed_BI: Any,
    y: Any,
    column: int,
    num_rows: int,
    num_threads: int,
    tickets: Any,
    slot: int,
) -> None:
    """A thread's share of y = x W^T + bias.

    Args:
        linear: int64 [LINEAR_FIELDS].
        packed_BI: x as `pack` lays it, which bf16 weights meet.
        y: [B, column + O and TILE_ROWS - 1 more], where anything may be written.
        column: of y, where the outputs start.
        num_rows: B; the arrays may have more.
    """
    num_outputs, inputs, is_bf16 = linear[OUTPUTS], linear[INPUTS], linear[IS_BF16]
    row_bytes = inputs * (2 if is_bf16 else 4)
    chunk = _chunk_rows(num_outputs, row_bytes, num_threads)
    num_chunks = (num_outputs + chunk - 1) // chunk
    x = address_of(packed_BI) if is_bf16 else address_of(x_BI)
    x_stride = 4 * (packed_BI.shape[1] if is_bf16 else x_BI.shape[1])
    out, out_stride = address_of(y) + 4 * column, 4 * y.shape[1]
    while True:
        number = ticket(tickets, slot)
        if number >= num_chunks:
            break
        first, end = number * chunk, min(number * chunk + chunk, num_outputs)
        weight = linear[WEIGHT]
        _rows_product(
            weight, row_bytes, is_bf16, inputs, first, end, x, x_stride, num_rows, out, out_stride
        )
        if linear[BIAS]:
            bias = floats(linear[BIAS] + 4 * first, end - first)
            for m in range(num_rows):
                add(y[m, column + first : column + end], bias)


@jit(inline="always")
def down_projection(
    pair_S: Any, inputs: int, spans_S: Any, x_BI: Any, h_BR: Any, tickets: Any, slot: int
) -> None:
    """A thread's share of h = x A^T, for the rows of every segment that has an A.

    Args:
        pair_S: int64 [S, PAIR_FIELDS], of one layer.
        spans_S: int64 [S, 2], start and stop.
        h_BR: with room for 2 LANES more.
    """
    while True:
        s = ticket(tickets, slot)
        if s >= len(spans_S):
            break
        rank = pair_S[s, RANK]
        if rank:
            start, stop = spans_S[s, 0], spans_S[s, 1]
            stride, h_stride = 4 * x_BI.shape[1], 4 * h_BR.shape[1]
            x, h = address_of(x_BI) + start * stride, address_of(h_BR) + start * h_stride
            _rows_product(
                pair_S[s, A], 4 * inputs, 0, inputs, 0, rank, x, stride, stop - start, h, h_stride
            )
            # What a tile reads past the end must be finite.
            for row in range(start, stop):
                for i in range(rank, rank + 2 * LANES):
                    h_BR[row, i] = np.float32(0)


@jit(inline="always")
def add_up_projection(
    pair_S: Any,
    scale_S: Any,
    spans_S: Any,
    num_outputs: int,
    h_BR: Any,
    y: Any,
    column: int,
    scratch: Any,
    num_threads: int,
    tickets: Any,
    slot: int,
) -> None:
    """A thread's share of y += scale * h B^T, for the rows of every segment that has a B.

    Args:
        scratch: fp32 [SCRATCH_FLOATS] of this thread.
    """
    chunk = _chunk_rows(num_outputs, 64 * TILE_ROWS, num_threads)
    num_chunks = (num_outputs + chunk - 1) // chunk
    h_stride, tile = 4 * h_BR.shape[1], address_of(scratch)
    while True:
        number = ticket(tickets, slot)
        if number >= num_chunks * len(spans_S):
            break
        s, first = number // num_chunks, number % num_chunks * chunk
        rank = pair_S[s, RANK]
        if rank == 0:
            continue
        start, stop = spans_S[s, 0], spans_S[s, 1]
        end = min(first + chunk, num_outputs)
        for row in range(first, end, TILE_ROWS):
            rows = min(TILE_ROWS, end - row)
            w = pair_S[s, B] + 4 * rank * row
            for m in range(start, stop, TILE_VECTORS):
                count = min(TILE_VECTORS, stop - m)
                h = address_of(h_BR) + m * h_stride
                dot_tile(
                    (count, 0, w, 4 * rank, rows, h, h_stride, rank, tile, 4 * TILE_ROWS, w, 64)
                )
                for i in range(count):
                    delta = scratch[i * TILE_ROWS : i * TILE_ROWS + rows]
                    out = y[m + i, column + row : column + row + rows]
                    add_scaled(out, delta, scale_S[s])
