"""The two inner loops: dot products of a few rows with a few vectors, and weighted sums of rows.

Every result has its own accumulators, and the order of its additions is fixed by the length
alone. So a row's result is the same, bit for bit, whatever is computed beside it.
"""

# pyright: reportIndexIssue=false, reportAttributeAccessIssue=false
from __future__ import annotations

from typing import Any

from llvmlite import ir
from numba.core import cgutils

from tinsmith.nn.compiled.vectors import (
    I16,
    I32,
    I64,
    LANES,
    Code,
    compiled_function,
    jit,
    linked_function,
    vector,
)

TILE_ROWS = 4
TILE_VECTORS = 4 if LANES == 16 else 3
"""TILE_ROWS * TILE_VECTORS accumulators are half of AVX-512's registers, and what 16 registers
of 8 lanes (AVX2) or 32 of 4 (NEON) just hold."""
LINE_BYTES = 64
"""A line of the cache."""
CARRIED_FLOATS = TILE_ROWS * TILE_VECTORS * LANES
"""A tile's sums while a long row is taken in parts."""


class _DotTile:
    """Code of out[m, r] = sum over k of W[r, k] x[m, k], for TILE_ROWS rows of W.

    bf16 weights are taken as pairs, even elements and odd ones apart, which is cheaper than one
    after the other; x has to lie the same way (elementwise.pack).
    """

    def __init__(self, num_vectors: int, is_bf16: bool) -> None:
        self.num_vectors, self.is_bf16 = num_vectors, is_bf16
        self.w_size = 2 if is_bf16 else 4
        self.group = 2 * LANES if is_bf16 else LANES
        """Elements of a row that one pass of the loop takes."""

    def body(
        self,
        code: Code,
        w: Any,
        w_stride: Any,
        num_rows: Any,
        x: Any,
        x_stride: Any,
        k: Any,
        out: Any,
        out_stride: Any,
        ahead: Any,
        ahead_step: Any,
        begins: Any,
        ends: Any,
        carried: Any,
    ) -> None:
        """See any_dot_tile."""
        b = code.builder
        last = b.sub(num_rows, I64(1))
        rows = []
        for r in range(TILE_ROWS):
            row = b.select(b.icmp_signed("<", I64(r), last), I64(r), last)
            rows.append(code.at(w, row, w_stride))
        xs = [code.at(x, I64(m), x_stride) for m in range(self.num_vectors)]
        zeros = ir.Constant(vector(LANES), None)
        sums = [[cgutils.alloca_once_value(b, zeros) for _ in rows] for _ in xs]
        places = [
            (total, b.add(carried, I64(4 * LANES * i)))
            for i, total in enumerate(total for of_x in sums for total in of_x)
        ]
        with b.if_then(b.icmp_signed("==", begins, I64(0))):
            for total, place in places:
                b.store(code.load(place, vector(LANES)), total)

        num_groups = b.sdiv(k, I64(self.group))
        done = b.mul(num_groups, I64(self.group))
        rest = b.sub(k, done)
        step = b.sdiv(b.mul(ahead_step, I64(self.group * self.w_size)), I64(LINE_BYTES))
        with cgutils.for_range(b, num_groups) as loop:
            fetched = code.at(ahead, loop.index, step)
            for r, row in enumerate(rows):
                # With a step of less than a line, each row comes to its next one at another time.
                code.prefetch(b.add(b.add(row, fetched), I64(LINE_BYTES // TILE_ROWS * r)))
            element = b.mul(loop.index, I64(self.group))
            self._add(code, rows, xs, sums, element, element, self.group)
        count = self.group // 2
        while count:
            with b.if_then(b.icmp_signed("!=", b.and_(rest, I64(count)), I64(0)), likely=False):
                before = b.and_(rest, I64(-2 * count))
                x_before = b.sdiv(before, I64(2)) if self.is_bf16 else before
                element, x_element = b.add(done, before), b.add(done, x_before)
                self._add(code, rows, xs, sums, element, x_element, count)
            count //= 2
        with b.if_else(b.icmp_signed("!=", ends, I64(0))) as (then, otherwise):
            with then:
                self._store(code, sums, out, out_stride)
            with otherwise:
                for total, place in places:
                    code.store(b.load(total), place)

    def _add(
        self, code: Code, rows: Any, xs: Any, sums: Any, element: Any, x_element: Any, count: int
    ) -> None:
        """Take `count` elements of every row, from `element` on."""
        b = code.builder
        w_parts = [
            self._weights(code, code.at(row, element, I64(self.w_size)), count) for row in rows
        ]
        for part in range(len(w_parts[0])):
            for x, of_x in zip(xs, sums, strict=True):
                start = b.add(code.at(x, x_element, I64(4)), I64(4 * LANES * part))
                x_part = code.load(start, vector(LANES))
                for w_part, total in zip(w_parts, of_x, strict=True):
                    b.store(code.fma(w_part[part], x_part, b.load(total)), total)

    def _weights(self, code: Code, address: Any, count: int) -> list[Any]:
        if not self.is_bf16:
            return [code.widened(code.load(address, vector(count)), LANES)]
        halves = code.widened(code.load(address, vector(count, I16), align=2), self.group)
        # The first of a pair is the lower half; a bf16 is the upper half of an fp32.
        pairs = code.builder.bitcast(halves, vector(LANES, I32))
        even = code.builder.shl(pairs, ir.Constant(pairs.type, [16] * LANES))
        odd = code.builder.and_(pairs, ir.Constant(pairs.type, [0xFFFF0000] * LANES))
        return [code.builder.bitcast(part, vector(LANES)) for part in (even, odd)]

    def _store(self, code: Code, sums: Any, out: Any, out_stride: Any) -> None:
        b = code.builder
        flat = [b.load(total) for of_x in sums for total in of_x]
        flat += [ir.Constant(vector(LANES), None)] * (-len(flat) % LANES)
        together = LANES // TILE_ROWS
        summed = [code.sums(flat[i : i + LANES]) for i in range(0, len(flat), LANES)]
        for m in range(self.num_vectors):
            of_m, first = summed[m // together], m % together * TILE_ROWS
            lanes = code.pick(of_m, of_m, list(range(first, first + TILE_ROWS)))
            code.store(lanes, code.at(out, I64(m), out_stride))


def _weighted_sums(
    code: Code,
    values: Any,
    num_values: Any,
    size: Any,
    weights: Any,
    weights_stride: Any,
    num_sums: Any,
    out: Any,
    out_stride: Any,
) -> None:
    """out[m] += sum over p of weights[m, p] values[p], for `num_sums` rows of `size` elements.

    All arguments are int64, addresses and strides in bytes; `values` lie without gaps.
    """
    b = code.builder
    size_bytes = b.mul(size, I64(4))

    def column(start: Any, width: int) -> None:
        start_bytes = b.mul(start, I64(4))
        with cgutils.for_range(b, num_sums) as over_sums:
            target = b.add(code.at(out, over_sums.index, out_stride), start_bytes)
            weight = code.at(weights, over_sums.index, weights_stride)
            source = b.add(values, start_bytes)
            total = cgutils.alloca_once(b, vector(width))
            b.store(code.load(target, vector(width)), total)
            with cgutils.for_range(b, num_values) as over_values:
                p = over_values.index
                w = code.load(code.at(weight, p, I64(4)), ir.FloatType())
                value = code.load(code.at(source, p, size_bytes), vector(width))
                b.store(code.fma(code.splat(w, width), value, b.load(total)), total)
            code.store(b.load(total), target)

    num_full = b.sdiv(size, I64(LANES))
    with cgutils.for_range(b, num_full) as loop:
        column(b.mul(loop.index, I64(LANES)), LANES)
    done = b.mul(num_full, I64(LANES))
    rest = b.sub(size, done)
    width = LANES // 2
    while width:
        with b.if_then(b.icmp_signed("!=", b.and_(rest, I64(width)), I64(0)), likely=False):
            column(b.add(done, b.and_(rest, I64(-2 * width))), width)
        width //= 2


DOT_TILE = "tinsmith_dot_tile"
"""The name that kernels.py gives to what `any_dot_tile` is compiled to."""
DOT_TILE_ARGUMENTS = 15


def _tile(num_vectors: int, is_bf16: bool) -> Any:
    name = f"tinsmith_dot_{num_vectors}_{'bf16' if is_bf16 else 'fp32'}"
    return compiled_function(name, DOT_TILE_ARGUMENTS - 2, _DotTile(num_vectors, is_bf16).body)


_fp32_1, _fp32_2, _fp32_3, _fp32_4 = (_tile(m, False) for m in (1, 2, 3, 4))
_bf16_1, _bf16_2, _bf16_3, _bf16_4 = (_tile(m, True) for m in (1, 2, 3, 4))
_add_weighted = compiled_function("tinsmith_weighted_sums", 8, _weighted_sums)

dot_tile = linked_function(DOT_TILE, DOT_TILE_ARGUMENTS)
"""any_dot_tile with its arguments in one tuple. It is compiled by itself: as a part of all that
calls it, numba would optimise it again for each of them."""


@jit(inline="always")
def any_dot_tile(
    num_vectors: int,
    is_bf16: int,
    w: int,
    w_stride: int,
    num_rows: int,
    x: int,
    x_stride: int,
    k: int,
    out: int,
    out_stride: int,
    ahead: int,
    ahead_step: int,
    begins: int,
    ends: int,
    carried: int,
) -> None:
    """Dot products of TILE_ROWS rows of W with at most TILE_VECTORS vectors.

    Args:
        w: address of the rows, with a stride in bytes as everywhere here.
        num_rows: how many there are; the last one stands in for those that are missing.
        x: address of the vectors, which are read up to 2 * LANES past their end and must be
            finite there. W is not read past its end.
        k: how long rows and vectors are.
        out: address; TILE_ROWS numbers are written for every vector.
        ahead: what lies so many bytes behind each row is fetched,
        ahead_step: so many bytes of it for each line of a row that is taken.
        begins: whether the sums begin here, or with what was left in `carried`.
        ends: whether they are complete and go to `out`, or to `carried`.
        carried: address of CARRIED_FLOATS fp32.
    """
    arguments = (
        w,
        w_stride,
        num_rows,
        x,
        x_stride,
        k,
        out,
        out_stride,
        ahead,
        ahead_step,
        begins,
        ends,
        carried,
    )
    if is_bf16:
        if num_vectors == 1:
            _bf16_1(arguments)
        elif num_vectors == 2:
            _bf16_2(arguments)
        elif num_vectors == 3:
            _bf16_3(arguments)
        else:
            _bf16_4(arguments)
    elif num_vectors == 1:
        _fp32_1(arguments)
    elif num_vectors == 2:
        _fp32_2(arguments)
    elif num_vectors == 3:
        _fp32_3(arguments)
    else:
        _fp32_4(arguments)


@jit
def add_weighted(arguments: Any) -> None:
    """See _weighted_sums."""
    _add_weighted(arguments)
