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

from tinsmith.nn.context import ForwardContext, Segment


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


class _AdaptedLinear(torch.autograd.Function):
    """x W^T + bias + scale (x A^T) B^T with gradients for x, A and B; none for W and bias.

    Written by hand for its three savings: one fused addition of the delta, x kept once for both
    products, and no gradient for x where nothing below the layer needs one.
    """

    @staticmethod
    def forward(
        ctx: Any,
        x_NI: Tensor,
        weight_OI: Tensor,
        bias_O: Tensor | None,
        a_RI: Tensor,
        b_OR: Tensor,
        scale: float,
    ) -> Tensor:
        a_RI, b_OR = a_RI.to(x_NI.dtype), b_OR.to(x_NI.dtype)
        h_NR = functional.linear(x_NI, a_RI)
        y_NO = functional.linear(x_NI, weight_OI, bias_O)
        y_NO.addmm_(h_NR, b_OR.T, alpha=scale)
        ctx.save_for_backward(x_NI, weight_OI, a_RI, b_OR, h_NR)
        ctx.scale = scale
        return y_NO

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor | None, ...]:
        (grad_NO,) = grad_outputs
        x_NI, weight_OI, a_RI, b_OR, h_NR = ctx.saved_tensors
        scale: float = ctx.scale
        grad_h_NR = (grad_NO @ b_OR).mul_(scale)
        grad_x_NI = None
        if ctx.needs_input_grad[0]:
            grad_x_NI = (grad_NO @ weight_OI).addmm_(grad_h_NR, a_RI)
        grad_a_RI = (grad_h_NR.T @ x_NI).float()
        grad_b_OR = (grad_NO.T @ h_NR).mul_(scale).float()
        return grad_x_NI, None, None, grad_a_RI, grad_b_OR, None


class AdapterLinear(nn.Module):
    """A frozen nn.Linear plus whatever adapters the current pass puts on it."""

    def __init__(self, linear: nn.Linear, index: int, context: ForwardContext) -> None:
        super().__init__()
        self.weight = linear.weight
        self.bias = linear.bias
        self.in_features, self.out_features = linear.in_features, linear.out_features
        self.index = index
        """This layer's place in Segment.pairs."""
        self.context = context

    def forward(self, x: Tensor) -> Tensor:
        """x is [..., I]; all but the last dimension together are the packed tokens."""
        x_TI = x.reshape(-1, self.in_features)
        y_TO = self._adapted(x_TI)
        return y_TO.view(*x.shape[:-1], self.out_features)

    def _adapted(self, x_TI: Tensor) -> Tensor:
        segments = self.context.segments
        if not torch.is_grad_enabled():
            y_TO = functional.linear(x_TI, self.weight, self.bias)
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
            parts.append(functional.linear(x_TI[done : segment.start], self.weight, self.bias))
            parts.append(self._adapted_by(segment, x_TI[segment.start : segment.stop]))
            done = segment.stop
        parts.append(functional.linear(x_TI[done:], self.weight, self.bias))
        return torch.cat(parts)

    def _adapted_by(self, segment: Segment, x_NI: Tensor) -> Tensor:
        pair = segment.pairs[self.index]
        if pair is None:
            return functional.linear(x_NI, self.weight, self.bias)
        y_NO = _AdaptedLinear.apply(x_NI, self.weight, self.bias, *pair, segment.scale)
        assert isinstance(y_NO, Tensor)
        return y_NO
