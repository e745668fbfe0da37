"""Losses on the log-probabilities of target tokens. Each is a sum over tokens, never a mean.

Written with tensors' own methods, so that the front can read the table without loading torch.

In the formulas: lp is log p of the target now, q its `logprobs` when it was sampled, A its
`advantages`, r = exp(lp - q), sg() stops the gradient.

Shape suffixes: N positions, K targets per position (1 unless the targets are soft).

Methods: Schulman et al., "Proximal Policy Optimization Algorithms", 2017, eq. 7 (ppo); MiniMax,
"MiniMax-M1", 2025, eq. 4 (cispo); Richemond et al., "Offline Regularised Reinforcement Learning
for Large Language Models Alignment", 2024 (dro); Zheng et al., "Group Sequence Policy
Optimization", 2025, eq. 7, 13 and 14 (gspo). Averages over tokens are sums here.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

Inputs = Mapping[str, "Tensor"]
"""loss_fn_inputs of a micro-batch by name, [N, K] fp32, and DATUM."""
Settings = Mapping[str, float]

DATUM = "datum"
"""Which datum of the micro-batch a position belongs to, int64 [N]. Datums are never split."""


@dataclass(frozen=True, slots=True)
class Setting:
    """A finite number that loss_fn_config may set."""

    default: float
    low: float
    high: float
    """Both bounds are allowed values."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Loss:
    name: str
    per_token: Callable[[Tensor, Inputs, Settings], Tensor]
    """(logprobs_NK, inputs, settings) -> loss_N, lower is better."""
    formula: str
    """What is summed over tokens, for readers."""
    inputs: frozenset[str]
    """loss_fn_inputs every datum must carry besides target_tokens, each in target_tokens' shape."""
    forward_optional: frozenset[str] = frozenset()
    """Those that a forward-only pass may leave out; they count as 1 there."""
    masks: frozenset[str] = frozenset()
    """Those that hold 0 and 1 only."""
    gate: str | None
    """The input whose zeros mean that no gradient comes from a position; None: from all."""
    scored: str | None = None
    """An input whose non-zeros mean that log p is needed, whatever the gate says."""
    has_soft_targets: bool = False
    """Whether target_tokens may be [n, K]."""
    settings: Mapping[str, Setting] = field(default_factory=dict)
    """What loss_fn_config may set. Any other name is refused."""

    def settings_of(self, config: Mapping[str, float | str]) -> Settings:
        """What the config, which has been checked, says, and defaults for what it leaves out."""
        defaults = {name: setting.default for name, setting in self.settings.items()}
        return defaults | {name: float(value) for name, value in config.items()}


def cross_entropy(logprobs_NK: Tensor, inputs: Inputs, settings: Settings) -> Tensor:
    """Summed over the K soft targets of a position too. Linear in the weights, which may be any
    real numbers: a client-side custom loss sends minus its derivative by each log p. There is no
    default weight: a forward_backward without `weights` is refused, a forward takes 1."""
    return -(inputs["weights"] * logprobs_NK).sum(dim=1)


def importance_sampling(logprobs_NK: Tensor, inputs: Inputs, settings: Settings) -> Tensor:
    """The policy gradient on samples of an older policy. The ratio has no bounds."""
    return -(_log_ratio(logprobs_NK, inputs).exp() * inputs["advantages"])[:, 0]


def ppo(logprobs_NK: Tensor, inputs: Inputs, settings: Settings) -> Tensor:
    """The thresholds bound the ratio itself; they are not distances from 1. Where the bound is
    what counts there is no gradient."""
    return _clipped(_log_ratio(logprobs_NK, inputs), inputs["advantages"], settings)[:, 0]


def cispo(logprobs_NK: Tensor, inputs: Inputs, settings: Settings) -> Tensor:
    """The ratio is a bounded factor without a gradient of its own, so that every token keeps
    some gradient, whatever its ratio."""
    low, high = settings["clip_low_threshold"], settings["clip_high_threshold"]
    ratio_NK = _log_ratio(logprobs_NK.detach(), inputs).exp().clamp(low, high)
    return -(ratio_NK * inputs["advantages"] * logprobs_NK)[:, 0]


def dro(logprobs_NK: Tensor, inputs: Inputs, settings: Settings) -> Tensor:
    """The square holds every position near its `logprobs`, also where the advantage is 0. Where
    it should not act, as in a prompt, give the log p that `forward` answers."""
    distance_NK = logprobs_NK - inputs["logprobs"]
    penalty_NK = settings["beta"] / 2 * distance_NK * distance_NK
    return (penalty_NK - logprobs_NK * inputs["advantages"])[:, 0]


def gspo(logprobs_NK: Tensor, inputs: Inputs, settings: Settings) -> Tensor:
    """The value of the ratio is one for the whole datum, from the mean over the tokens whose
    `sequence_ratio_mask` is 1; the gradient is each token's own. Without such a token the ratio
    is 1. Advantages count wherever they are not 0, in the mask or out of it."""
    now_NK = logprobs_NK.detach()
    mask_NK, datum_N = inputs["sequence_ratio_mask"], inputs[DATUM]
    # There are at most as many datums as positions; to count them would wait for the device.
    zeros_DK = now_NK.new_zeros(now_NK.shape)
    sum_DK = zeros_DK.index_add(0, datum_N, (now_NK - inputs["logprobs"]) * mask_NK)
    count_DK = zeros_DK.index_add(0, datum_N, mask_NK)
    mean_NK = (sum_DK / count_DK.clamp(min=1)).index_select(0, datum_N)
    advantages_NK = inputs["advantages"]
    log_ratio_NK = (mean_NK + (logprobs_NK - now_NK)).where(advantages_NK != 0, 0.0)
    return _clipped(log_ratio_NK, advantages_NK, settings)[:, 0]


def _log_ratio(logprobs_NK: Tensor, inputs: Inputs) -> Tensor:
    """lp - q, and 0 where the advantage is 0: the logprobs of a prompt are often placeholders,
    and a ratio that overflows times 0 would be NaN."""
    return (logprobs_NK - inputs["logprobs"]).where(inputs["advantages"] != 0, 0.0)


def _clipped(log_ratio_NK: Tensor, advantages_NK: Tensor, settings: Settings) -> Tensor:
    """-min(r A, clamp(r, low, high) A)."""
    ratio_NK = log_ratio_NK.detach().exp()
    bound_NK = ratio_NK.clamp(settings["clip_low_threshold"], settings["clip_high_threshold"])
    bound_NK = bound_NK * advantages_NK
    is_bound_NK = bound_NK < ratio_NK * advantages_NK
    # exp(0) in the branch that is not taken: backward multiplies its 0 by the ratio, perhaps inf.
    free_NK = log_ratio_NK.where(~is_bound_NK, 0.0).exp() * advantages_NK
    return -bound_NK.where(is_bound_NK, free_NK)


_SAMPLED = frozenset({"logprobs", "advantages"})
_THRESHOLDS = {
    "clip_low_threshold": Setting(0.8, 0.0, 1.0),
    "clip_high_threshold": Setting(1.2, 1.0, 1e6),
}

LOSSES: Mapping[str, Loss] = {
    loss.name: loss
    for loss in (
        Loss(
            name="cross_entropy",
            per_token=cross_entropy,
            formula="-w lp",
            inputs=frozenset({"weights"}),
            forward_optional=frozenset({"weights"}),
            gate="weights",
            has_soft_targets=True,
        ),
        Loss(
            name="importance_sampling",
            per_token=importance_sampling,
            formula="-r A",
            inputs=_SAMPLED,
            gate="advantages",
        ),
        Loss(
            name="ppo",
            per_token=ppo,
            formula="-min(r A, clamp(r, low, high) A)",
            inputs=_SAMPLED,
            gate="advantages",
            settings=_THRESHOLDS,
        ),
        Loss(
            name="cispo",
            per_token=cispo,
            formula="-sg(clamp(r, low, high)) lp A",
            inputs=_SAMPLED,
            gate="advantages",
            settings=_THRESHOLDS,
        ),
        Loss(
            name="dro",
            per_token=dro,
            formula="-(lp A - (beta / 2) (lp - q)^2)",
            inputs=_SAMPLED,
            gate=None,
            settings={"beta": Setting(0.05, 0.0, 1e6)},
        ),
        Loss(
            name="gspo",
            per_token=gspo,
            formula=(
                "-min(s A, clamp(s, low, high) A) with s = exp(m + lp - sg(lp)) and m the mean of "
                "sg(lp) - q over the masked tokens of the datum"
            ),
            inputs=_SAMPLED | {"sequence_ratio_mask"},
            masks=frozenset({"sequence_ratio_mask"}),
            gate="advantages",
            scored="sequence_ratio_mask",
            settings=_THRESHOLDS,
        ),
    )
}
