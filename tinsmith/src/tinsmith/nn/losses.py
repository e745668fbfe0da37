"""Losses on the log-probabilities of target tokens. Each is a sum over tokens, never a mean.

Written with tensors' own methods, so that the front can read the table without loading torch.

Shape suffixes: N positions, K targets per position (1 unless the targets are soft).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

Inputs = Mapping[str, "Tensor"]
"""loss_fn_inputs of a micro-batch by name, [N, K] fp32."""
Settings = Mapping[str, float | str]


@dataclass(frozen=True, slots=True)
class Loss:
    per_token: Callable[[Tensor, Inputs, Settings], Tensor]
    """(logprobs_NK, inputs, settings) -> loss_N, lower is better."""
    inputs: frozenset[str]
    """loss_fn_inputs every datum must carry besides target_tokens, each in target_tokens' shape.
    A forward-only pass may leave them out; they count as 1 there."""
    gate: str
    """The input whose zeros mean that no gradient comes from a position."""
    settings: Settings = field(default_factory=dict)
    """What loss_fn_config may set, with the defaults. Any other name is refused."""


def cross_entropy(logprobs_NK: Tensor, inputs: Inputs, settings: Settings) -> Tensor:
    """-w log p, summed over the K soft targets of a position too. Linear in w, which may be any
    real number: a client-side custom loss sends minus its derivative by each log p. There is no
    default weight: a forward_backward without `weights` is refused."""
    return -(inputs["weights"] * logprobs_NK).sum(dim=1)


LOSSES: Mapping[str, Loss] = {
    "cross_entropy": Loss(cross_entropy, frozenset({"weights"}), gate="weights"),
}
