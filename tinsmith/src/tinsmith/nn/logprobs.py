"""Log-probabilities of target tokens without a full [tokens, vocabulary] matrix.

Shape suffixes: N positions, K targets per position, M listed ones, H hidden size, V vocabulary,
C chunk.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

CHUNK_ELEMENTS = 1 << 25
"""Logits held at a time: 128 MB in fp32. Each chunk reads all of the output layer's weights, twice
where a gradient is wanted, so a chunk should have some 200 rows even of a large vocabulary: with
half as many the products ran a tenth slower."""


@dataclass(frozen=True, slots=True)
class LogitScaling:
    """What a model does to its output layer's result: logits * multiplier, then the softcap."""

    multiplier: float = 1.0
    softcap: float | None = None

    @classmethod
    def of(cls, config: Any) -> LogitScaling:
        multiplier = getattr(config, "logit_scale", None)
        divisor = getattr(config, "logits_scaling", None)
        return cls(
            multiplier=(1.0 if multiplier is None else float(multiplier)) / float(divisor or 1.0),
            softcap=getattr(config, "final_logit_softcapping", None),
        )

    def __call__(self, logits: Tensor) -> Tensor:
        logits = logits.float()
        if self.multiplier != 1.0:
            logits = logits * self.multiplier
        if self.softcap is not None:
            logits = self.softcap * torch.tanh(logits / self.softcap)
        return logits

    def slope(self, logits: Tensor) -> Tensor | float:
        """The derivative of the scaled logits, given those, by the unscaled ones."""
        if self.softcap is None:
            return self.multiplier
        return (1.0 - (logits / self.softcap).square()) * self.multiplier


@dataclass(frozen=True, slots=True)
class OutputLayer:
    """From hidden states to logits."""

    project: Callable[[Tensor], Tensor]
    """[C, H] -> unscaled logits [C, V]. Must give the same result when called again."""
    vocab_size: int
    scaling: LogitScaling = LogitScaling()
    pull_back: Callable[[Tensor], Tensor] | None = None
    """The gradient of `project` for its input: [C, V] -> [C, H]. None where the layer itself is
    trained, so that autograd must see it."""

    def logits(self, hidden_CH: Tensor) -> Tensor:
        """[C, V] fp32."""
        return self.scaling(self.project(hidden_CH))

    @property
    def chunk_length(self) -> int:
        return max(1, CHUNK_ELEMENTS // self.vocab_size)


def target_logprobs(
    output: OutputLayer, hidden_NH: Tensor, target_NK: Tensor, needs_grad_N: Tensor
) -> Tensor:
    """log p of each target under the model, at every position.

    Args:
        target_NK: int64.
        needs_grad_N: bool; the other positions' values are constants for autograd.

    Returns:
        [N, K] fp32, differentiable (in hidden_NH and in what the output layer trains) where asked.
    """
    if not torch.is_grad_enabled():
        return _constant_logprobs(output, hidden_NH, target_NK)
    logprobs_NK = torch.zeros(target_NK.shape, dtype=torch.float32, device=hidden_NH.device)
    constant_M = (~needs_grad_N).nonzero().squeeze(-1)
    if len(constant_M):
        with torch.no_grad():
            logprobs_NK[constant_M] = _constant_logprobs(
                output, hidden_NH[constant_M], target_NK[constant_M]
            )
    wanted_M = needs_grad_N.nonzero().squeeze(-1)
    if len(wanted_M) == 0:
        return logprobs_NK
    hidden_MH, target_MK = hidden_NH.index_select(0, wanted_M), target_NK[wanted_M]
    if output.pull_back is not None and target_NK.shape[1] == 1:
        wanted_MK = _FrozenLogprobs.apply(hidden_MH, target_MK, output)
        assert isinstance(wanted_MK, Tensor)
    else:
        wanted_MK = _recomputed_logprobs(output, hidden_MH, target_MK)
    return logprobs_NK.index_put((wanted_M,), wanted_MK)


class _FrozenLogprobs(torch.autograd.Function):
    """One target a position under a frozen output layer, in one visit to each chunk's logits.

    The derivative of log p by the hidden state, W^T (onehot - p), does not depend on what becomes
    of log p. So it is formed while the logits are there, and backward only scales its rows: four
    operations for each weight and position where computing the logits again would make it six
    (as Hsu et al., "Liger Kernel", 2024, section 3.2, for cross entropy; here for any loss).
    """

    @staticmethod
    def forward(ctx: Any, hidden_NH: Tensor, target_N1: Tensor, output: OutputLayer) -> Tensor:
        assert output.pull_back is not None
        logprobs, slopes = [], []
        for hidden_CH, target_C1 in _chunks(output, hidden_NH, target_N1):
            logits_CV = output.logits(hidden_CH)
            slope = output.scaling.slope(logits_CV)
            # Divided by the total only after the product: a pass over the chunk less.
            logprob_C1, exp_CV, total_C1 = _consume(logits_CV, target_C1)
            logprobs.append(logprob_C1)
            grad_CV = exp_CV.scatter_add_(1, target_C1, -total_C1)
            if not isinstance(slope, float) or slope != 1.0:
                grad_CV.mul_(slope)
            pulled_CH = output.pull_back(grad_CV.to(hidden_NH.dtype))
            slopes.append(pulled_CH.div_(-total_C1))
        ctx.save_for_backward(torch.cat(slopes))
        return torch.cat(logprobs)

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor | None, ...]:
        (slope_NH,) = ctx.saved_tensors
        return (slope_NH * grad_outputs[0]).to(slope_NH.dtype), None, None


def _recomputed_logprobs(output: OutputLayer, hidden_NH: Tensor, target_NK: Tensor) -> Tensor:
    """By autograd through the output layer, the logits of one chunk at a time: where there are
    several, they are computed again when backward reaches them."""
    chunks = list(_chunks(output, hidden_NH, target_NK))
    if len(chunks) == 1:
        return _chunk_logprobs(output, hidden_NH, target_NK)
    parts = [
        checkpoint(
            _chunk_logprobs,
            output,
            hidden_CH,
            target_CK,
            use_reentrant=False,
            preserve_rng_state=False,
        )
        for hidden_CH, target_CK in chunks
    ]
    return torch.cat(parts)  # type: ignore[arg-type]


def _constant_logprobs(output: OutputLayer, hidden_NH: Tensor, target_NK: Tensor) -> Tensor:
    chunks = _chunks(output, hidden_NH, target_NK)
    parts = [_consume(output.logits(hidden_CH), target_CK)[0] for hidden_CH, target_CK in chunks]
    return torch.cat(parts) if parts else hidden_NH.new_zeros(target_NK.shape).float()


@torch.no_grad()
def top_logprobs(output: OutputLayer, hidden_NH: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """The k likeliest next tokens at each position, likeliest first: ids int64 [N, k] and their
    log-probabilities fp32 [N, k]."""
    parts = [
        top_of_logits(output.logits(hidden_CH), k)
        for hidden_CH in hidden_NH.split(output.chunk_length)
    ]
    ids, logprobs = zip(*parts, strict=True)
    return torch.cat(ids), torch.cat(logprobs)


def top_of_logits(logits_CV: Tensor, k: int) -> tuple[Tensor, Tensor]:
    values_CK, ids_CK = logits_CV.topk(k, dim=1)
    return ids_CK, values_CK - logits_CV.logsumexp(dim=1, keepdim=True)


@torch.no_grad()
def listed_logprobs(
    output: OutputLayer, hidden_NH: Tensor, row_M: Tensor, token_M: Tensor
) -> Tensor:
    """log p of any number of tokens at each position: fp32 [M].

    Args:
        row_M: int64, the position of each token, ascending.
    """
    parts, start = [], 0
    for hidden_CH in hidden_NH.split(output.chunk_length):
        logits_CV = output.logits(hidden_CH)
        is_here_M = (row_M >= start) & (row_M < start + len(hidden_CH))
        row, token = row_M[is_here_M] - start, token_M[is_here_M]
        parts.append(logits_CV[row, token] - logits_CV.logsumexp(dim=1)[row])
        start += len(hidden_CH)
    return torch.cat(parts)


def _chunks(output: OutputLayer, hidden_NH: Tensor, target_NK: Tensor) -> Any:
    size = output.chunk_length
    return zip(hidden_NH.split(size), target_NK.split(size), strict=True)


def _chunk_logprobs(output: OutputLayer, hidden_CH: Tensor, target_CK: Tensor) -> Tensor:
    return output.logits(hidden_CH).log_softmax(dim=1).gather(1, target_CK)


def _consume(logits_CV: Tensor, target_CK: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """log p of the targets, exp(logit - the largest) and its sum, in the logits' own memory: a
    pass over a chunk costs as much as the products of thirty tokens."""
    logits_CV.sub_(logits_CV.amax(dim=1, keepdim=True))
    target_logit_CK = logits_CV.gather(1, target_CK)
    total_C1 = logits_CV.exp_().sum(dim=1, keepdim=True)
    return target_logit_CK - total_C1.log(), logits_CV, total_C1
