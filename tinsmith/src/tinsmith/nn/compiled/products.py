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
from tinsmith.nn.compiled.tiles import CARRIED_FLOATS, LINE_BYTES, TILE_ROWS, TILE_VECTORS, dot_tile
from tinsmith.nn.compiled.vectors import LANES, jit

WEIGHT, BIAS, OUTPUTS, INPUTS, IS_BF16, LINEAR_FIELDS = range(6)
"""A linear layer's record: addresses (bias 0: none), sizes, and whether the weight is bf16."""
A, B, RANK, PAIR_FIELDS = range(4)
"""A pair's record: addresses, and the rank; 0 where the adapter leaves the layer alone."""
_PART = 1024
"""Elements of a long row that are taken at a time."""
_PASSES = 4
"""Groups of TILE_VECTORS vectors that meet a part of a row before the next part comes."""
SCRATCH_FLOATS = _PASSES * CARRIED_FLOATS
"""That products need for each thread."""

_CHUNK_BYTES = 1 << 18


@jit
def _chunk_rows(num_rows: int, row_bytes: int, num_threads: int) -> int:
    """Rows of a piece of work: some 256 KB, unless that leaves a thread without work."""
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
    carried: int,
) -> None:
    """Rows [first, end) of W with all vectors. Addresses and strides in bytes.

    A few rows of W meet all vectors before the next rows come, in parts that leave room for the
    vectors in the first level of the cache. Meanwhile the next rows are fetched.
    """
    size = row_bytes // inputs
    parts = max((inputs + _PART - 1) // _PART, 1)
    passes = (num_vectors + TILE_VECTORS - 1) // TILE_VECTORS
    ahead, step = TILE_ROWS * row_bytes, LINE_BYTES // passes
    for row in range(first, end, TILE_ROWS):
        start = weight + row * row_bytes
        rows = min(TILE_ROWS, end - row)
        for first_pass in range(0, passes, _PASSES):
            last_pass = min(first_pass + _PASSES, passes)
            for part in range(parts):
                column = part * _PART
                length = min(_PART, inputs - column)
                for number in range(first_pass, last_pass):
                    m = number * TILE_VECTORS
                    arguments = (
                        min(TILE_VECTORS, num_vectors - m),
                        is_bf16,
                        start + column * size,
                        row_bytes,
                        rows,
                        x + m * x_stride + 4 * column,
                        x_stride,
                        length,
                        out + m * out_stride + 4 * row,
                        out_stride,
                        ahead + length // passes * number * size,
                        step,
                        1 if part == 0 else 0,
                        1 if part == parts - 1 else 0,
                        carried + 4 * CARRIED_FLOATS * (number - first_pass),
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
    scratch: Any,
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
        scratch: fp32 [SCRATCH_FLOATS] of this thread.
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
            *(weight, row_bytes, is_bf16, inputs, first, end, x, x_stride, num_rows),
            *(out, out_stride, address_of(scratch)),
        )
        if linear[BIAS]:
            bias = floats(linear[BIAS] + 4 * first, end - first)
            for m in range(num_rows):
                add(y[m, column + first : column + end], bias)


@jit(inline="always")
def down_projection(
    pair_S: Any,
    inputs: int,
    spans_S: Any,
    x_BI: Any,
    h_BR: Any,
    scratch: Any,
    tickets: Any,
    slot: int,
) -> None:
    """A thread's share of h = x A^T, for the rows of every segment that has an A.

    Args:
        pair_S: int64 [S, PAIR_FIELDS], of one layer.
        spans_S: int64 [S, 2], start and stop.
        h_BR: with room for 2 LANES more.
        scratch: fp32 [SCRATCH_FLOATS] of this thread.
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
                *(pair_S[s, A], 4 * inputs, 0, inputs, 0, rank, x, stride, stop - start),
                *(h, h_stride, address_of(scratch)),
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
                    (
                        *(count, 0, w, 4 * rank, rows, h, h_stride, rank),
                        *(tile, 4 * TILE_ROWS, 4 * rank * TILE_ROWS, LINE_BYTES, 1, 1, 0),
                    )
                )
                for i in range(count):
                    delta = scratch[i * TILE_ROWS : i * TILE_ROWS + rows]
                    out = y[m + i, column + row : column + row + rows]
                    add_scaled(out, delta, scale_S[s])
