"""Products with frozen weights that may be held in a narrower dtype than is computed in.

A processor without bf16 products of its own multiplies fp32 several times faster. So weights in
bf16 are widened on the way, some rows at a time, while they are in the processor's caches: half the
memory, nothing rounded but the weights.

Shape suffixes: N tokens, I inputs, O outputs.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor
from torch.nn import functional

_WIDENED_ELEMENTS = 1 << 20
"""Of a weight at a time."""


def product(x_NI: Tensor, weight_OI: Tensor, bias_O: Tensor | None) -> Tensor:
    """x W^T + bias in the dtype of x."""
    if weight_OI.dtype == x_NI.dtype:
        return functional.linear(x_NI, weight_OI, bias_O)
    y_NO = x_NI.new_empty(len(x_NI), len(weight_OI))
    for start, part_RI in _widened(weight_OI, x_NI.dtype):
        part = slice(start, start + len(part_RI))
        if bias_O is None:
            torch.mm(x_NI, part_RI.T, out=y_NO[:, part])
        else:
            torch.addmm(bias_O[part], x_NI, part_RI.T, out=y_NO[:, part])
    return y_NO


def pull_back(grad_NO: Tensor, weight_OI: Tensor, grad_x_NI: Tensor | None = None) -> Tensor:
    """grad W, added to grad_x_NI in place where that is given."""
    if weight_OI.dtype == grad_NO.dtype:
        if grad_x_NI is None:
            return grad_NO @ weight_OI
        return grad_x_NI.addmm_(grad_NO, weight_OI)
    if grad_x_NI is None:
        grad_x_NI = grad_NO.new_zeros(len(grad_NO), weight_OI.shape[1])
    for start, part_RI in _widened(weight_OI, grad_NO.dtype):
        grad_x_NI.addmm_(grad_NO[:, start : start + len(part_RI)], part_RI)
    return grad_x_NI


def _widened(weight_OI: Tensor, dtype: torch.dtype) -> Iterator[tuple[int, Tensor]]:
    """The weight's rows, some at a time, each lot with the number of its first and in the same
    memory as the last."""
    num_rows = max(1, _WIDENED_ELEMENTS // weight_OI.shape[1])
    held = weight_OI.new_empty(min(num_rows, len(weight_OI)), weight_OI.shape[1], dtype=dtype)
    for start in range(0, len(weight_OI), num_rows):
        part_RI = weight_OI[start : start + num_rows]
        yield start, held[: len(part_RI)].copy_(part_RI)
