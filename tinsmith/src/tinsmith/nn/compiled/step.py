"""One decode step through all layers: every thread runs this function, and between its phases
they wait for each other. Python is entered once a step.

Shape suffixes: B rows, L layers, S segments, N query heads, K key heads, D head dimension,
H hidden size, F width of the gated layer, R rank.
"""

# pyright: reportIndexIssue=false, reportAttributeAccessIssue=false
from __future__ import annotations

from typing import Any

from tinsmith.nn.compiled.attention import attend
from tinsmith.nn.compiled.elementwise import add, gated, normalise, pack
from tinsmith.nn.compiled.memory import barrier, floats, ticket
from tinsmith.nn.compiled.products import (
    INPUTS,
    IS_BF16,
    OUTPUTS,
    add_up_projection,
    down_projection,
    product,
)
from tinsmith.nn.compiled.vectors import jit

QUERY, KEY, VALUE, OUTPUT, GATE, UP, DOWN, NUM_LINEARS = range(8)
"""A layer's linears."""
INPUT_NORM, OUTPUT_NORM, QUERY_NORM, KEY_NORM, NUM_NORMS = range(5)

_BEFORE_ATTENTION, _ATTENTION, _PACKING, _BEFORE_GATE, _GATE, _PRODUCTS = range(6)
NUM_SLOTS = _PRODUCTS + 3 * NUM_LINEARS
"""Queues of tasks in a layer; a linear has three: base, down- and up-projection."""


@jit(inline="always")
def decode_step(
    thread: int,
    team: Any,
    model: Any,
    adapters: Any,
    cache: Any,
    rotation: Any,
    buffers: Any,
    scratch: Any,
) -> None:
    """A thread's share of a step. Arguments are tuples.

    Args:
        team: number of threads; arrivals, see memory.barrier; tickets, int64 zeros, NUM_SLOTS
            for each layer and one more.
        model: sizes, int64 [N, K, D, H]; linears, int64 [L, NUM_LINEARS, LINEAR_FIELDS]; columns,
            int64 [NUM_LINEARS], where each linear's outputs start in its buffer; norms, int64
            [L + 1, NUM_NORMS], addresses of fp32 weights, 0 for none, with the final norm as the
            last one's INPUT_NORM; eps, fp32 [L + 1, NUM_NORMS]; scalings, fp32 [L]; windows,
            int64 [L], 0 for none.
        adapters: pairs, int64 [L, NUM_LINEARS, S, PAIR_FIELDS]; scales, fp32 [S]; spans, int64
            [S, 2].
        cache: addresses of each layer's keys and values, int64 [L, 2]; tables, int32 [B, blocks];
            positions, int64 [B].
        rotation: cos and sin, fp32 [B, D].
        buffers: x [B, H], the embeddings, worked on in place; hidden, which has the result; qkv;
            seen; y; gates; inner; packed; h [3, B, R]: see buffers.py.
        scratch: for each thread, for heads, scores and tiles.
    """
    num_threads, arrivals, tickets = team
    sizes, linears, columns, norms, eps, scalings, windows = model
    pairs, scale_S, spans_S = adapters
    caches, tables, positions = cache
    cos_BD, sin_BD = rotation
    x, hidden, qkv, seen, y, gates, inner, packed, h = buffers
    heads, scores, tiles = scratch
    num_rows, width, gate_width = len(positions), sizes[3], linears[0, GATE, OUTPUTS]
    seen_width = linears[0, OUTPUT, INPUTS]
    own = (spans_S, scale_S, h, tiles[thread], num_rows)
    for layer in range(len(linears)):
        slot = layer * NUM_SLOTS
        linear, pair = linears[layer], pairs[layer]
        is_bf16 = linear[QUERY, IS_BF16]

        norm, norm_eps = norms[layer, INPUT_NORM], eps[layer, INPUT_NORM]
        here = slot + _BEFORE_ATTENTION
        _norm_rows(
            x, y, layer > 0, norm, norm_eps, hidden, packed, is_bf16, num_rows, width, tickets, here
        )
        barrier(arrivals, num_threads)
        _adapted(team, linear, pair, own, hidden, packed, qkv, columns, QUERY, VALUE + 1, slot)
        attend(
            qkv,
            sizes,
            norms[layer, QUERY_NORM:],
            eps[layer, QUERY_NORM:],
            scalings[layer],
            windows[layer],
            cos_BD,
            sin_BD,
            caches[layer, 0],
            caches[layer, 1],
            tables,
            positions,
            heads[thread],
            scores[thread],
            seen,
            tickets,
            slot + _ATTENTION,
        )
        barrier(arrivals, num_threads)
        if is_bf16:
            while True:
                row = ticket(tickets, slot + _PACKING)
                if row >= num_rows:
                    break
                pack(seen[row, :seen_width], packed[row])
            barrier(arrivals, num_threads)
        _adapted(team, linear, pair, own, seen, packed, y, columns, OUTPUT, OUTPUT + 1, slot)

        norm, norm_eps = norms[layer, OUTPUT_NORM], eps[layer, OUTPUT_NORM]
        here = slot + _BEFORE_GATE
        _norm_rows(
            x, y, True, norm, norm_eps, hidden, packed, is_bf16, num_rows, width, tickets, here
        )
        barrier(arrivals, num_threads)
        _adapted(team, linear, pair, own, hidden, packed, gates, columns, GATE, UP + 1, slot)
        while True:
            row = ticket(tickets, slot + _GATE)
            if row >= num_rows:
                break
            up = gates[row, columns[UP] : columns[UP] + gate_width]
            gated(gates[row, :gate_width], up, inner[row, :gate_width])
            if is_bf16:
                pack(inner[row, :gate_width], packed[row])
        barrier(arrivals, num_threads)
        _adapted(team, linear, pair, own, inner, packed, y, columns, DOWN, DOWN + 1, slot)
    last = len(linears)
    norm, norm_eps = norms[last, INPUT_NORM], eps[last, INPUT_NORM]
    here = last * NUM_SLOTS
    _norm_rows(x, y, True, norm, norm_eps, hidden, packed, 0, num_rows, width, tickets, here)
    barrier(arrivals, num_threads)


@jit(inline="always")
def head_step(
    thread: int, team: Any, linear: Any, adapters: Any, num_rows: int, width: int, buffers: Any
) -> None:
    """A thread's share of the output layer. Arguments as in decode_step, but

    Args:
        team: with NUM_LINEARS * 3 + 1 tickets.
        linear: int64 [1, LINEAR_FIELDS].
        adapters: pairs, int64 [1, S, PAIR_FIELDS]; scales; spans.
        buffers: hidden, packed, logits, h, and tiles of each thread.
    """
    num_threads, arrivals, tickets = team
    pairs, scale_S, spans_S = adapters
    hidden, packed, logits, h, tiles = buffers
    if linear[0, IS_BF16]:
        while True:
            row = ticket(tickets, _PACKING)
            if row >= num_rows:
                break
            pack(hidden[row, :width], packed[row])
        barrier(arrivals, num_threads)
    own = (spans_S, scale_S, h, tiles[thread], num_rows)
    columns = linear[0, :1] * 0
    _adapted(team, linear, pairs, own, hidden, packed, logits, columns, 0, 1, 0)


@jit
def _norm_rows(
    x: Any,
    y: Any,
    adds: bool,
    norm: int,
    eps: Any,
    out: Any,
    packed: Any,
    is_bf16: int,
    num_rows: int,
    width: int,
    tickets: Any,
    slot: int,
) -> None:
    """A thread's share of x += y (where it adds), out = norm(x)."""
    weight = floats(norm, width)
    while True:
        row = ticket(tickets, slot)
        if row >= num_rows:
            break
        if adds:
            add(x[row, :width], y[row, :width])
        normalise(x[row, :width], weight, eps, out[row, :width])
        if is_bf16:
            pack(out[row, :width], packed[row])


@jit
def _adapted(
    team: Any,
    linear: Any,
    pair: Any,
    own: Any,
    x: Any,
    packed: Any,
    y: Any,
    columns: Any,
    first: int,
    end: int,
    slot: int,
) -> None:
    """Linears [first, end), which read the same x, with their adapters, up to a barrier."""
    num_threads, arrivals, tickets = team
    spans_S, scale_S, h, tile, num_rows = own
    base = slot + _PRODUCTS
    for i in range(first, end):
        here = base + i
        product(linear[i], x, packed, y, columns[i], num_rows, tile, num_threads, tickets, here)
    if len(spans_S):
        for i in range(first, end):
            inputs, here = linear[i, INPUTS], base + NUM_LINEARS + i
            down_projection(pair[i], inputs, spans_S, x, h[i - first], tile, tickets, here)
        barrier(arrivals, num_threads)
        for i in range(first, end):
            outputs, here = linear[i, OUTPUTS], base + 2 * NUM_LINEARS + i
            add_up_projection(
                pair[i],
                scale_S,
                spans_S,
                outputs,
                h[i - first],
                y,
                columns[i],
                tile,
                num_threads,
                tickets,
                here,
            )
    barrier(arrivals, num_threads)
