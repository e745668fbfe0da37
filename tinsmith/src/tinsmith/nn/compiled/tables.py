"""Models and adapters as tables of addresses and sizes, the form in which compiled code knows them.

A table holds the tensors it points into. Shape suffixes: L layers, S segments.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from tinsmith.nn.compiled.products import LINEAR_FIELDS, PAIR_FIELDS
from tinsmith.nn.compiled.step import NUM_NORMS
from tinsmith.nn.context import Pair, Segment
from tinsmith.nn.decoder import Decoder, DecoderLayer, Norm
from tinsmith.nn.lora import AdapterLinear

WEIGHT_DTYPES = (torch.float32, torch.bfloat16)


def linears_of(layer: DecoderLayer) -> tuple[AdapterLinear, ...]:
    """In the order of step.py."""
    attention = (layer.query, layer.key, layer.value, layer.output)
    return (*attention, layer.gate, layer.up, layer.down)


class LinearTable:
    """Records of linear layers, [..., LINEAR_FIELDS] as products.py names the fields."""

    def __init__(self, linears: Sequence[Sequence[AdapterLinear]]) -> None:
        self._kept: list[Tensor] = []
        records = [[self._record(linear) for linear in group] for group in linears]
        self.records = np.array(records, dtype=np.int64)
        self.indices = [[linear.index for linear in group] for group in linears]
        assert self.records.shape[2] == LINEAR_FIELDS

    def _record(self, linear: AdapterLinear) -> tuple[int, int, int, int, int]:
        weight, bias = linear.weight, linear.bias
        assert isinstance(weight, Tensor) and is_usable(weight)
        address = 0
        if bias is not None:
            bias = bias.detach().float().contiguous()
            self._kept.append(bias)
            address = bias.data_ptr()
        self._kept.append(weight)
        is_bf16 = int(weight.dtype == torch.bfloat16)
        return weight.data_ptr(), address, linear.out_features, linear.in_features, is_bf16


class NormTable:
    """The layers' norms and the final one, as step.py numbers them: addresses of fp32 weights
    and eps, [L + 1, NUM_NORMS]."""

    def __init__(self, layers: Sequence[DecoderLayer], final: Norm) -> None:
        self._kept: list[Tensor] = []
        shape = (len(layers) + 1, NUM_NORMS)
        self.addresses = np.zeros(shape, dtype=np.int64)
        self.eps = np.zeros(shape, dtype=np.float32)
        for i, layer in enumerate(layers):
            norms = (layer.input_norm, layer.output_norm, layer.query_norm, layer.key_norm)
            for j, norm in enumerate(norms):
                self._set(i, j, norm)
        self._set(len(layers), 0, final)

    def _set(self, i: int, j: int, norm: Norm | None) -> None:
        if norm is not None:
            weight = norm.weight.detach().float().contiguous()
            self._kept.append(weight)
            self.addresses[i, j], self.eps[i, j] = weight.data_ptr(), norm.eps


class AdapterTable:
    """Segments and their adapters' matrices in the linear layers of a table.

    Attributes:
        pairs: int64 [..., S, PAIR_FIELDS], with the layers' dimensions in front.
        scales: fp32 [S].
        spans: int64 [S, 2].
        rank: the largest.
    """

    def __init__(
        self,
        segments: Sequence[Segment],
        linears: LinearTable,
        before: AdapterTable | None = None,
    ) -> None:
        """`before` is the last such table, of which the parts that are still in use are taken."""
        self.segments = segments
        known = {} if before is None else before._adapters
        self._adapters = {
            id(one.pairs): known.get(id(one.pairs)) or _Adapter(one.pairs, linears)
            for one in segments
        }
        self.pairs = np.zeros(
            (*linears.records.shape[:2], len(segments), PAIR_FIELDS), dtype=np.int64
        )
        for s, segment in enumerate(segments):
            self.pairs[:, :, s] = self._adapters[id(segment.pairs)].pairs
        self.scales = np.array([segment.scale for segment in segments], dtype=np.float32)
        spans = [(segment.start, segment.stop) for segment in segments]
        self.spans: NDArray[np.int64] = np.array(spans, dtype=np.int64).reshape(-1, 2)
        self.rank = int(self.pairs[..., 2].max(initial=1))


class _Adapter:
    """One adapter's part of an AdapterTable, [..., PAIR_FIELDS]."""

    def __init__(self, pairs: Sequence[Pair | None], linears: LinearTable) -> None:
        self._kept: list[object] = [pairs]
        self.pairs = np.zeros((*linears.records.shape[:2], PAIR_FIELDS), dtype=np.int64)
        for i, group in enumerate(linears.indices):
            for j, index in enumerate(group):
                if (pair := pairs[index]) is not None:
                    a_RI, b_OR = (tensor.detach().float().contiguous() for tensor in pair)
                    self._kept += [a_RI, b_OR]
                    self.pairs[i, j] = a_RI.data_ptr(), b_OR.data_ptr(), len(a_RI)


def is_usable(weight: Tensor) -> bool:
    return weight.device.type == "cpu" and weight.dtype in WEIGHT_DTYPES and weight.is_contiguous()


def has_known_layers(decoder: Decoder) -> bool:
    """Whether all layers are of one size, with plain weights of one dtype."""
    records = []
    for layer in decoder.layers:
        linears = linears_of(layer)
        for linear in linears:
            if linear.quantized is not None or not is_usable(linear.weight):
                return False
        sizes = [(linear.out_features, linear.in_features) for linear in linears]
        records.append((sizes, {linear.weight.dtype for linear in linears}, layer.head_dim))
    one_size = all(record == records[0] for record in records)
    # Heads side by side in a buffer must not be touched by each other's tiles.
    return one_size and len(records[0][1]) == 1 and decoder.layers[0].head_dim % 4 == 0
