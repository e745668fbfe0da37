"""Routed feed-forward layers whose experts are stacked in two tensors, with adapters on both.

Every expert has an adapter of its own, of the run's rank. A and B of all experts lie in two
matrices as PEFT 0.21 stacks them: A's rows expert by expert, B's columns the other way round, the
expert running fastest. The router is left as it is.

Shape suffixes: T packed tokens, K experts of a token, S = T K pairs of both, N pairs of one expert,
E experts, H hidden size, F width of an expert, I inputs, O outputs, R rank.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from tinsmith.nn.context import ForwardContext, Segment

GATE_UP, DOWN = "gate_up_proj", "down_proj"

Stacked = list[tuple[Segment, tuple[Tensor, ...], tuple[Tensor, ...]]]
"""The segments that adapt a tensor, each with A [R, I] and B [O, R] by expert."""


def has_known_layout(module: nn.Module) -> bool:
    """Whether the module holds gate_up_proj [E, 2 F, H] (gates first) and down_proj [E, H, F]
    and nothing else, as Qwen3-MoE's does."""
    shapes = {name: tuple(p.shape) for name, p in module.named_parameters()}
    if shapes.keys() != {GATE_UP, DOWN} or any(len(shape) != 3 for shape in shapes.values()):
        return False
    num_experts, num_outputs, hidden_size = shapes[GATE_UP]
    return (
        shapes[DOWN] == (num_experts, hidden_size, num_outputs // 2)
        and getattr(module, "has_gate", False)
        and getattr(module, "is_concatenated", False)
        and not getattr(module, "is_transposed", True)
        and not getattr(module, "has_post_expert_norm", True)
        and callable(getattr(module, "act_fn", None))
    )


class AdapterExperts(nn.Module):
    """Takes the place of transformers' module of stacked experts."""

    def __init__(self, experts: nn.Module, index: int, context: ForwardContext) -> None:
        """
        Args:
            experts: has_known_layout.
            index: place of gate_up_proj in Segment.pairs; down_proj follows.
        """
        super().__init__()
        self.gate_up_proj = experts.get_parameter(GATE_UP)
        self.down_proj = experts.get_parameter(DOWN)
        self.act_fn = cast("Callable[[Tensor], Tensor]", experts.act_fn)
        self.index = index
        self.context = context

    def forward(self, x_TH: Tensor, expert_TK: Tensor, share_TK: Tensor) -> Tensor:
        """The experts' outputs, each times its share, added up for each token: [T, H].

        Tokens of an expert go through it together, ascending, so that those of an adapter lie
        side by side there too.
        """
        num_experts, per_token = len(self.gate_up_proj), expert_TK.shape[1]
        order_S = expert_TK.flatten().argsort(stable=True)
        token_S = order_S // per_token
        counts = torch.bincount(expert_TK.flatten(), minlength=num_experts).tolist()
        gate_up, down = (self._stacked(index) for index in (self.index, self.index + 1))
        outputs = []
        for expert, token_N in enumerate(token_S.split(counts)):
            if not len(token_N):
                continue
            x_NH = x_TH.index_select(0, token_N)
            hidden = _adapted(x_NH, self.gate_up_proj[expert], gate_up, expert, token_N)
            gate_NF, up_NF = hidden.chunk(2, dim=-1)
            hidden = self.act_fn(gate_NF) * up_NF
            outputs.append(_adapted(hidden, self.down_proj[expert], down, expert, token_N))
        y_SH = torch.cat(outputs) * share_TK.flatten().index_select(0, order_S)[:, None]
        return torch.zeros_like(x_TH).index_add(0, token_S, y_SH.to(x_TH.dtype))

    def _stacked(self, index: int) -> Stacked:
        # Apart all at once: backward then puts the experts' gradients together in one operation.
        num_experts = len(self.gate_up_proj)
        stacked = []
        for segment in self.context.segments:
            pair = segment.pairs[index]
            if pair is not None:
                a, b = pair
                of_a = a.view(num_experts, -1, a.shape[1]).unbind(0)
                of_b = b.view(b.shape[0], -1, num_experts).unbind(2)
                stacked.append((segment, of_a, of_b))
        return stacked


def _adapted(
    x_NI: Tensor, weight_OI: Tensor, stacked: Stacked, expert: int, token_N: Tensor
) -> Tensor:
    """x W^T + scale (x A^T) B^T with the adapter of each row's own segment."""
    y_NO = functional.linear(x_NI, weight_OI)
    for (segment, of_a, of_b), (start, stop) in zip(stacked, _rows(stacked, token_N), strict=True):
        a_RI, b_OR = of_a[expert].to(x_NI.dtype), of_b[expert].to(x_NI.dtype)
        delta = functional.linear(functional.linear(x_NI[start:stop], a_RI), b_OR)
        y_NO[start:stop] += segment.scale * delta
    return y_NO


def _rows(stacked: Stacked, token_N: Tensor) -> Sequence[tuple[int, int]]:
    """Where the tokens of each segment lie among an expert's, which ascend."""
    bounds = [bound for segment, _, _ in stacked for bound in (segment.start, segment.stop)]
    if not bounds:
        return []
    edges = torch.tensor(bounds, device=token_N.device)
    found = torch.searchsorted(token_N, edges).tolist()
    return list(zip(found[::2], found[1::2], strict=True))
