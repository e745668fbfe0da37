"""Attention of one new token per row to keys and values that lie in blocks.

A piece of work is one key head of one row, with all query heads that share it, so keys and values
are read once. Rows come one after another for a head: the blocks that they share stay in cache.

Shape suffixes: B rows, N query heads, K key heads, G query heads of a key head, D head dimension.
"""

# pyright: reportIndexIssue=false, reportAttributeAccessIssue=false
from __future__ import annotations

from typing import Any

import numpy as np

from tinsmith.nn.compiled.elementwise import (
    exponentials,
    largest_of,
    normalise,
    rotate,
    sum_of,
)
from tinsmith.nn.compiled.memory import address_of, floats, ticket
from tinsmith.nn.compiled.tiles import LINE_BYTES, TILE_ROWS, TILE_VECTORS, add_weighted, dot_tile
from tinsmith.nn.compiled.vectors import jit

BLOCK = 16
"""Positions of a block."""

_ZERO, _ONE = np.float32(0), np.float32(1)


@jit(inline="always")
def attend(
    qkv: Any,
    sizes: Any,
    norms: Any,
    eps: Any,
    scaling: Any,
    window: int,
    cos_BD: Any,
    sin_BD: Any,
    keys: int,
    values: int,
    tables: Any,
    positions: Any,
    head_scratch: Any,
    score_scratch: Any,
    out: Any,
    tickets: Any,
    slot: int,
) -> None:
    """A thread's share of one layer's attention; stores the new keys and values on the way.

    Args:
        qkv: [B, (N + 2 K) D and more], as the projections gave them.
        sizes: N, K and D.
        norms: addresses of the query norm's and the key norm's weights; 0 for none.
        eps: of the two norms.
        window: latest positions that are seen; 0 is all.
        keys, values: addresses of [blocks, K, BLOCK, D].
        tables: int32 [B, blocks]; positions: int64 [B].
        head_scratch: [2 G, at least D and 2 LANES more], zeros past D; score_scratch: [G, at least
            positions and TILE_ROWS more]. Both of this thread.
        out: [B, N D and more].
    """
    num_queries, num_keys, head_dim = sizes[0], sizes[1], sizes[2]
    num_rows, group = len(positions), num_queries // num_keys
    query, mixed = head_scratch[:group], head_scratch[group:]
    while True:
        number = ticket(tickets, slot)
        if number >= num_keys * num_rows:
            break
        head, row = number // num_rows, number % num_rows
        cos, sin = cos_BD[row], sin_BD[row]
        for g in range(group):
            start = (head * group + g) * head_dim
            _turned(qkv[row, start : start + head_dim], norms[0], eps[0], cos, sin, query[g])
        position = positions[row]
        block = tables[row, position // BLOCK]
        place = ((block * num_keys + head) * BLOCK + position % BLOCK) * head_dim * 4
        start = (num_queries + head) * head_dim
        new_key = floats(keys + place, head_dim)
        _turned(qkv[row, start : start + head_dim], norms[1], eps[1], cos, sin, new_key)
        start = (num_queries + num_keys + head) * head_dim
        new_value = floats(values + place, head_dim)
        for i in range(head_dim):
            new_value[i] = qkv[row, start + i]
        first = max(0, position - window + 1) if window else 0
        table = tables[row]
        scores, apart = score_scratch, values - keys
        _score(query, keys, apart, table, head, num_keys, head_dim, first, position, scores)
        length = position + 1 - first
        for g in range(group):
            mine = scores[g, :length]
            for i in range(length):
                mine[i] *= scaling
            exponentials(mine, largest_of(mine))
            for i in range(head_dim):
                mixed[g, i] = _ZERO
        _mix(scores, values, table, head, num_keys, head_dim, first, position, mixed, group)
        for g in range(group):
            factor = _ONE / sum_of(scores[g, :length])
            start = (head * group + g) * head_dim
            for i in range(head_dim):
                out[row, start + i] = mixed[g, i] * factor


@jit(inline="always")
def attend_alone(
    thread: int,
    team: Any,
    heads: Any,
    norms: Any,
    how: Any,
    rotation: Any,
    layer: Any,
    rows: Any,
    scratch: Any,
    out: Any,
) -> None:
    """A thread's share of `attend` as a function of its own. Arguments are attend's, in tuples,
    with the scratch memory of all threads."""
    qkv, sizes = heads
    addresses, eps = norms
    scaling, window = how
    cos_BD, sin_BD = rotation
    keys, values = layer
    tables, positions = rows
    head_scratch, score_scratch = scratch
    attend(
        qkv,
        sizes,
        addresses,
        eps,
        scaling,
        window,
        cos_BD,
        sin_BD,
        keys,
        values,
        tables,
        positions,
        head_scratch[thread],
        score_scratch[thread],
        out,
        team[2],
        0,
    )


@jit
def _turned(x: Any, norm: int, eps: Any, cos: Any, sin: Any, out: Any) -> None:
    """One head, normalised where there is a norm, and rotated."""
    if norm:
        normalise(x, floats(norm, x.size), eps, x)
    rotate(x, cos, sin, out)


@jit(inline="always")
def _score(
    query: Any,
    keys: int,
    meanwhile: int,
    table: Any,
    head: int,
    num_keys: int,
    head_dim: int,
    first: int,
    last: int,
    scores: Any,
) -> None:
    """scores[g, i] = query[g] . key of position first + i, up to `last`.

    What lies `meanwhile` bytes from a key is fetched: its value.
    """
    q, q_stride = address_of(query), 4 * query.shape[1]
    out, out_stride = address_of(scores), 4 * scores.shape[1]
    key_bytes = 4 * head_dim
    for start in range(first // BLOCK * BLOCK, last + 1, BLOCK):
        block = keys + (table[start // BLOCK] * num_keys + head) * BLOCK * key_bytes
        end = min(BLOCK, last + 1 - start)
        for place in range(max(first - start, 0), end, TILE_ROWS):
            w = block + place * key_bytes
            target = out + 4 * (start + place - first)
            for m in range(0, query.shape[0], TILE_VECTORS):
                dot_tile(
                    (
                        min(TILE_VECTORS, query.shape[0] - m),
                        0,
                        w,
                        key_bytes,
                        min(TILE_ROWS, end - place),
                        q + m * q_stride,
                        q_stride,
                        head_dim,
                        target + m * out_stride,
                        out_stride,
                        meanwhile,
                        *(LINE_BYTES, 1, 1, 0),
                    )
                )


@jit(inline="always")
def _mix(
    weights: Any,
    values: int,
    table: Any,
    head: int,
    num_keys: int,
    head_dim: int,
    first: int,
    last: int,
    out: Any,
    num_sums: int,
) -> None:
    """out[g] += sum over i of weights[g, i] times the value of position first + i."""
    value_bytes = 4 * head_dim
    for start in range(first // BLOCK * BLOCK, last + 1, BLOCK):
        block = values + (table[start // BLOCK] * num_keys + head) * BLOCK * value_bytes
        place = max(first - start, 0)
        add_weighted(
            (
                block + place * value_bytes,
                min(BLOCK, last + 1 - start) - place,
                head_dim,
                address_of(weights) + 4 * (start + place - first),
                4 * weights.shape[1],
                num_sums,
                address_of(out),
                4 * out.shape[1],
            )
        )
