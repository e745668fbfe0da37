"""Routed feed-forward layers whose experts are stacked in two tensors, with adapters on both.

Every expert has an adapter of its own, of the run's rank. A and B of all experts lie in two
matrices as PEFT 0.21 stacks them: A's rows expert by expert, B's columns the other way round, the
expert running fastest. The router is left as it is.

Shape suffixes: T packed tokens, K experts of a token, S = T K pairs of both, ordered by expert and
token, N pairs of one expert, E experts, H hidden size, F width of an expert, I inputs, O outputs,
R rank.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from tinsmith.nn.context import ForwardContext

GATE_UP, DOWN = "gate_up_proj", "down_proj"

Rows = list[tuple[int, int]]
"""First and last + 1 of the rows that each segment adapts."""
Stacked = list[tuple[tuple[Tensor, ...], tuple[Tensor, ...]] | None]
"""For each segment A [R, I] and B [O, R] by expert; None where it has no adapter."""


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
        self.tokens_of_expert: list[int] | None = None
        """Where set, forward adds how many tokens each expert got."""

    @property
    def num_experts(self) -> int:
        return len(self.gate_up_proj)

    def forward(self, x_TH: Tensor, expert_TK: Tensor, share_TK: Tensor) -> Tensor:
        """The experts' outputs, each times its share, added up for each token: [T, H].

        Tokens of an expert go through it together, ascending, so that those of a segment lie
        side by side there too.
        """
        num_tokens, num_experts = len(x_TH), self.num_experts
        token_T = torch.arange(num_tokens, device=x_TH.device)
        place_S, order_S = (expert_TK * num_tokens + token_T[:, None]).flatten().sort()
        token_S = order_S // expert_TK.shape[1]
        bounds = [bound for s in self.context.segments for bound in (s.start, s.stop)]
        first_E = torch.arange(num_experts, device=x_TH.device) * num_tokens
        edges = torch.tensor([0, *bounds, num_tokens], device=x_TH.device)
        # The only wait for the device.
        found = torch.searchsorted(place_S, first_E[:, None] + edges).tolist()
        if self.tokens_of_expert is not None:
            for expert, (start, *_, stop) in enumerate(found):
                self.tokens_of_expert[expert] += stop - start
        gate_up, down = (self._stacked(index) for index in (self.index, self.index + 1))
        outputs = []
        for expert, (start, *inner, stop) in enumerate(found):
            if start == stop:
                continue
            rows = [(a - start, b - start) for a, b in zip(inner[::2], inner[1::2], strict=True)]
            x_NH = x_TH.index_select(0, token_S[start:stop])
            hidden = self._adapted(x_NH, self.gate_up_proj, gate_up, expert, rows)
            gate_NF, up_NF = hidden.chunk(2, dim=-1)
            hidden = self.act_fn(gate_NF) * up_NF
            outputs.append(self._adapted(hidden, self.down_proj, down, expert, rows))
        y_SH = torch.cat(outputs) * share_TK.flatten().index_select(0, order_S)[:, None]
        return torch.zeros_like(x_TH).index_add(0, token_S, y_SH.to(x_TH.dtype))

    def _stacked(self, index: int) -> Stacked:
        # Apart all at once: backward then puts the experts' gradients together in one operation.
        num_experts = self.num_experts
        stacked: Stacked = []
        for segment in self.context.segments:
            pair = segment.pairs[index]
            if pair is None:
                stacked.append(None)
                continue
            a, b = pair
            of_a = a.view(num_experts, -1, a.shape[1]).unbind(0)
            of_b = b.view(b.shape[0], -1, num_experts).unbind(2)
            stacked.append((of_a, of_b))
        return stacked

    def _adapted(
        self, x_NI: Tensor, weight_EOI: Tensor, stacked: Stacked, expert: int, rows: Rows
    ) -> Tensor:
        """x W^T + scale (x A^T) B^T with the expert's W and each segment's A and B for it."""
        y_NO = functional.linear(x_NI, weight_EOI[expert])
        for segment, pairs, (start, stop) in zip(self.context.segments, stacked, rows, strict=True):
            if pairs is None or start == stop:
                continue
            a_RI, b_OR = pairs[0][expert].to(x_NI.dtype), pairs[1][expert].to(x_NI.dtype)
            delta = functional.linear(functional.linear(x_NI[start:stop], a_RI), b_OR)
            y_NO[start:stop] += segment.scale * delta
        return y_NO
