"""Low-rank adapters on frozen linear layers, one adapter per contiguous run of packed tokens.

Shape suffixes here: T packed tokens, N tokens of one adapter, I inputs, O outputs, R rank.
The base layer computes in its own dtype; A and B are fp32 and are cast to it for the products,
while their gradients are returned in fp32.

Method: Hu et al., "LoRA: Low-Rank Adaptation of Large Language Models", 2021, section 4.1.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from tinsmith.nn.context import ForwardContext, Pair, Segment
from tinsmith.nn.quantized import QuantizedLinear
from tinsmith.nn.widened import product, pull_back


def init_pair(
    rank: int, num_inputs: int, num_outputs: int, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """A [R, I] as PEFT draws it (Kaiming uniform with a = sqrt(5), which is uniform within
    1 / sqrt(I)) and B [O, R] of zeros, fp32 on the CPU whatever device they will live on."""
    a_RI = torch.empty(rank, num_inputs)
    nn.init.kaiming_uniform_(a_RI, a=math.sqrt(5), generator=generator)
    return a_RI, torch.zeros(num_outputs, rank)


def lora_reference(
    x_TI: Tensor, weight_OI: Tensor, bias_O: Tensor | None, segments: Sequence[Segment], index: int
) -> Tensor:
    """The adapted layer, token by token: slow, obvious, and what the fast path is tested against.

    Returns:
        y_TO, differentiable in x_TI and in every A and B by plain autograd.
    """
    rows = []
    for token, x_I in enumerate(x_TI):
        y_O = weight_OI @ x_I
        if bias_O is not None:
            y_O = y_O + bias_O
        for segment in segments:
            pair = segment.pairs[index]
            if pair is not None and segment.start <= token < segment.stop:
                a_RI, b_OR = pair
                y_O = y_O + segment.scale * (b_OR @ (a_RI @ x_I))
        rows.append(y_O)
    return torch.stack(rows)


def adapted_product(
    x_NI: Tensor, linear: AdapterLinear, pair: Pair | None, scale: float
) -> tuple[Tensor, Tensor | None]:
    """x W^T + bias + scale (x A^T) B^T, and x A^T [N, R] for the gradients.

    In this order a token costs R (I + O) multiplications more than the base layer; the product
    B A, which costs O I, is never formed.
    """
    y_NO = linear.product(x_NI)
    if pair is None:
        return y_NO, None
    a_RI, b_OR = (tensor.to(x_NI.dtype) for tensor in pair)
    h_NR = functional.linear(x_NI, a_RI)
    y_NO.addmm_(h_NR, b_OR.T, alpha=scale)
    return y_NO, h_NR


def product_gradients(
    grad_NO: Tensor,
    x_NI: Tensor,
    linear: AdapterLinear,
    pair: Pair | None,
    h_NR: Tensor | None,
    scale: float,
    grad_x_NI: Tensor | None = None,
    wants_x: bool = True,
) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
    """Gradients of adapted_product for x, A and B; none for W and the bias.

    Args:
        h_NR: what adapted_product returned beside the result.
        grad_x_NI: where several layers read one x, the others' gradient, which is added to.
        wants_x: False where nothing below needs a gradient.
    """
    grad_a_RI = grad_b_OR = grad_h_NR = a_RI = None
    if pair is not None:
        assert h_NR is not None
        a_RI, b_OR = (tensor.detach().to(x_NI.dtype) for tensor in pair)
        grad_h_NR = (grad_NO @ b_OR).mul_(scale)
        grad_a_RI = (grad_h_NR.T @ x_NI).float()
        grad_b_OR = (grad_NO.T @ h_NR).mul_(scale).float()
    if wants_x:
        grad_x_NI = linear.pull_back(grad_NO, grad_x_NI)
        if grad_h_NR is not None and a_RI is not None:
            grad_x_NI.addmm_(grad_h_NR, a_RI)
    return grad_x_NI, grad_a_RI, grad_b_OR


class _AdaptedLinear(torch.autograd.Function):
    """adapted_product with its gradients, for layers that stand alone.

    Written by hand for its three savings: one fused addition of the delta, x kept once for both
    products, and no gradient for x where nothing below the layer needs one.
    """

    @staticmethod
    def forward(
        ctx: Any, x_NI: Tensor, linear: AdapterLinear, a_RI: Tensor, b_OR: Tensor, scale: float
    ) -> Tensor:
        y_NO, h_NR = adapted_product(x_NI, linear, (a_RI, b_OR), scale)
        ctx.save_for_backward(x_NI, a_RI, b_OR, h_NR)
        ctx.linear, ctx.scale = linear, scale
        return y_NO

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor | None, ...]:
        x_NI, a_RI, b_OR, h_NR = ctx.saved_tensors
        grad_x_NI, grad_a_RI, grad_b_OR = product_gradients(
            grad_outputs[0],
            x_NI,
            ctx.linear,
            (a_RI, b_OR),
            h_NR,
            ctx.scale,
            wants_x=ctx.needs_input_grad[0],
        )
        return grad_x_NI, None, grad_a_RI, grad_b_OR, None


class _FrozenLinear(torch.autograd.Function):
    """A product with frozen weights that keeps neither them nor x: the weights may be quantised,
    and what was made of them for a moment must not be kept."""

    @staticmethod
    def forward(ctx: Any, x_NI: Tensor, linear: AdapterLinear) -> Tensor:
        ctx.linear = linear
        return linear.product(x_NI)

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor | None, ...]:
        return ctx.linear.pull_back(grad_outputs[0]), None


class AdapterLinear(nn.Module):
    """A frozen linear layer plus whatever adapters the current pass puts on it."""

    def __init__(
        self, linear: nn.Linear | QuantizedLinear, index: int, context: ForwardContext
    ) -> None:
        super().__init__()
        self.quantized = linear if isinstance(linear, QuantizedLinear) else None
        if isinstance(linear, nn.Linear):
            self.weight = linear.weight
        self.bias = linear.bias
        self.in_features, self.out_features = linear.in_features, linear.out_features
        self.index = index
        """This layer's place in Segment.pairs."""
        self.context = context

    def product(self, x_NI: Tensor) -> Tensor:
        """x W^T + bias, without adapters and without gradients."""
        if self.quantized is not None:
            return functional.linear(x_NI, self.quantized.frozen_weight(), self.bias)
        return product(x_NI, self.weight, self.bias)

    def pull_back(self, grad_NO: Tensor, grad_x_NI: Tensor | None = None) -> Tensor:
        """The product's gradient for x, added to what there is of it."""
        weight = self.weight if self.quantized is None else self.quantized.frozen_weight()
        return pull_back(grad_NO, weight, grad_x_NI)

    def forward(self, x: Tensor) -> Tensor:
        """x is [..., I]; all but the last dimension together are the packed tokens."""
        x_TI = x.reshape(-1, self.in_features)
        y_TO = self._adapted(x_TI)
        return y_TO.view(*x.shape[:-1], self.out_features)

    def _adapted(self, x_TI: Tensor) -> Tensor:
        segments = self.context.segments
        if not torch.is_grad_enabled():
            y_TO = self.product(x_TI)
            for segment in segments:
                pair = segment.pairs[self.index]
                if pair is not None:
                    x_NI = x_TI[segment.start : segment.stop]
                    a_RI, b_OR = pair[0].to(x_TI.dtype), pair[1].to(x_TI.dtype)
                    h_NR = functional.linear(x_NI, a_RI)
                    y_TO[segment.start : segment.stop].addmm_(h_NR, b_OR.T, alpha=segment.scale)
            return y_TO
        if len(segments) == 1 and (segments[0].start, segments[0].stop) == (0, len(x_TI)):
            return self._adapted_by(segments[0], x_TI)
        parts, done = [], 0
        for segment in sorted(segments, key=lambda segment: segment.start):
            parts.append(self._frozen(x_TI[done : segment.start]))
            parts.append(self._adapted_by(segment, x_TI[segment.start : segment.stop]))
            done = segment.stop
        parts.append(self._frozen(x_TI[done:]))
        return torch.cat(parts)

    def _adapted_by(self, segment: Segment, x_NI: Tensor) -> Tensor:
        pair = segment.pairs[self.index]
        if pair is None:
            return self._frozen(x_NI)
        y_NO = _AdaptedLinear.apply(x_NI, self, *pair, segment.scale)
        assert isinstance(y_NO, Tensor)
        return y_NO

    def _frozen(self, x_NI: Tensor) -> Tensor:
        y_NO = _FrozenLinear.apply(x_NI, self)
        assert isinstance(y_NO, Tensor)
        return y_NO
