"""What stands between the matrix products: norms, rotations, gates, exponentials.

Loops over independent elements are left to LLVM's vectoriser. Sums may be reordered by it, in a
way that depends on their length alone.
"""

# pyright: reportIndexIssue=false, reportAttributeAccessIssue=false
from __future__ import annotations

from typing import Any

import numpy as np

from tinsmith.nn.compiled.vectors import LANES, jit

_LOG2_E = np.float32(1.44269504088896341)
_LN2_HIGH, _LN2_LOW = np.float32(0.693359375), np.float32(-2.12194440e-4)
_SMALLEST, _LARGEST = np.float32(-87.0), np.float32(88.0)
_P0, _P1, _P2 = (
    np.float32(1.9875691500e-4),
    np.float32(1.3981999507e-3),
    np.float32(8.3334519073e-3),
)
_P3, _P4, _P5 = np.float32(4.1665795894e-2), np.float32(1.6666665459e-1), np.float32(0.5)
_ONE, _HALF, _ZERO = np.float32(1.0), np.float32(0.5), np.float32(0.0)
_BIAS, _MANTISSA = np.int32(127), np.int32(23)


@jit
def exp(x: Any) -> Any:
    """e^x within two units of fp32's last place, between exp(-87) and exp(88).

    Source: Moshier's Cephes library, expf; without a call, so that loops over it are vectorised.
    """
    x = x if x > _SMALLEST else _SMALLEST
    x = x if x < _LARGEST else _LARGEST
    whole = np.floor(x * _LOG2_E + _HALF)
    r = x - whole * _LN2_HIGH - whole * _LN2_LOW
    y = ((((_P0 * r + _P1) * r + _P2) * r + _P3) * r + _P4) * r + _P5
    y = y * (r * r) + r + _ONE
    power = np.int32((np.int32(whole) + _BIAS) << _MANTISSA)
    return y * power.view(np.float32)


@jit(fastmath={"reassoc", "nsz"})
def sum_of(x: Any) -> Any:
    total = _ZERO
    for i in range(x.size):
        total += x[i]
    return total


@jit(fastmath={"reassoc", "nsz", "contract"})
def _sum_of_squares(x: Any) -> Any:
    total = _ZERO
    for i in range(x.size):
        total += x[i] * x[i]
    return total


@jit
def largest_of(x: Any) -> Any:
    """The maximum; whatever, where there is a NaN."""
    # Four at a time: LLVM leaves a maximum to one chain of comparisons.
    a = b = c = d = x[0]
    whole = x.size - x.size % 4
    for i in range(0, whole, 4):
        a = x[i] if x[i] > a else a
        b = x[i + 1] if x[i + 1] > b else b
        c = x[i + 2] if x[i + 2] > c else c
        d = x[i + 3] if x[i + 3] > d else d
    for i in range(whole, x.size):
        a = x[i] if x[i] > a else a
    a, c = (a if a > b else b), (c if c > d else d)
    return a if a > c else c


@jit
def exponentials(x: Any, highest: Any) -> None:
    """x becomes exp(x - highest)."""
    for i in range(x.size):
        x[i] = exp(x[i] - highest)


@jit
def normalise(x: Any, weight: Any, eps: Any, out: Any) -> None:
    """nn.rms_norm of one row; `out` may be x."""
    factor = _ONE / np.sqrt(_sum_of_squares(x) / np.float32(x.size) + eps)
    for i in range(x.size):
        out[i] = x[i] * factor * weight[i]


@jit
def rotate(x: Any, cos: Any, sin: Any, out: Any) -> None:
    """nn.rotary of one head."""
    half = x.size // 2
    for i in range(half):
        first, second = x[i], x[half + i]
        out[i] = first * cos[i] - second * sin[i]
        out[half + i] = second * cos[half + i] + first * sin[half + i]


@jit
def gated(gate: Any, up: Any, out: Any) -> None:
    """silu(gate) * up."""
    for i in range(gate.size):
        out[i] = gate[i] / (_ONE + exp(-gate[i])) * up[i]


@jit
def add(x: Any, y: Any) -> None:
    """x += y."""
    for i in range(x.size):
        x[i] += y[i]


@jit
def add_scaled(x: Any, y: Any, scale: Any) -> None:
    """x += scale * y."""
    for i in range(x.size):
        x[i] += scale * y[i]


@jit
def pack(x: Any, out: Any) -> None:
    """In every 2 * LANES elements the even ones come first, then the odd ones: what tiles.py
    wants of a vector that meets bf16 weights. `out` has a group more; the rest becomes 0."""
    group = 2 * LANES
    for start in range(0, x.size - x.size % group, group):
        for lane in range(LANES):
            out[start + lane] = x[start + 2 * lane]
            out[start + LANES + lane] = x[start + 2 * lane + 1]
    start = x.size - x.size % group
    if start < x.size:
        for lane in range(2 * group):
            out[start + lane] = _ZERO
        for i in range(x.size - start):
            out[start + i % 2 * LANES + i // 2] = x[start + i]
