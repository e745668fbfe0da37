"""Log-probabilities of target tokens without a full [tokens, vocabulary] matrix.

Shape suffixes: N positions, K targets per position, H hidden size, V vocabulary, C chunk.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

Project = Callable[[Tensor], Tensor]
"""Hidden states [C, H] -> final logits [C, V], adapters and the model's logit scaling included."""

CHUNK_ELEMENTS = 1 << 22
"""Logits held at a time: 16 MB in fp32."""


def chunk_length(vocab_size: int) -> int:
    return max(1, CHUNK_ELEMENTS // vocab_size)


def target_logprobs(
    project: Project, hidden_NH: Tensor, target_NK: Tensor, needs_grad_N: Tensor, vocab_size: int
) -> Tensor:
    """log p of each target under the model, at every position.

    Args:
        project: must give the same result when called again during backward.
        target_NK: int64.
        needs_grad_N: bool; the other positions' values are constants for autograd.
        vocab_size: sets the length of a chunk.

    Returns:
        [N, K] fp32, differentiable (in hidden_NH and in what `project` holds) where asked.
    """
    logprobs_NK = torch.zeros(target_NK.shape, dtype=torch.float32, device=hidden_NH.device)
    size = chunk_length(vocab_size)
    wants_grad = torch.is_grad_enabled()
    with torch.no_grad():
        constant_M = (~needs_grad_N).nonzero().squeeze(-1) if wants_grad else None
        for index_C in _chunks(constant_M, len(target_NK), size, hidden_NH.device):
            logprobs_NK[index_C] = _chunk_logprobs(project, hidden_NH[index_C], target_NK[index_C])
    if not wants_grad:
        return logprobs_NK
    wanted_M = needs_grad_N.nonzero().squeeze(-1)
    chunks = _chunks(wanted_M, len(target_NK), size, hidden_NH.device)
    for index_C in chunks:
        hidden_CH, target_CK = hidden_NH.index_select(0, index_C), target_NK[index_C]
        if len(chunks) == 1:
            chunk_CK = _chunk_logprobs(project, hidden_CH, target_CK)
        else:
            # Logits of one chunk at a time: they are computed again when backward reaches them.
            chunk_CK = checkpoint(
                _chunk_logprobs,
                project,
                hidden_CH,
                target_CK,
                use_reentrant=False,
                preserve_rng_state=False,
            )
        assert isinstance(chunk_CK, Tensor)
        logprobs_NK = logprobs_NK.index_put((index_C,), chunk_CK)
    return logprobs_NK


@torch.no_grad()
def top_logprobs(
    project: Project, hidden_NH: Tensor, k: int, vocab_size: int
) -> tuple[Tensor, Tensor]:
    """The k likeliest next tokens at each position, likeliest first: ids int64 [N, k] and their
    log-probabilities fp32 [N, k]."""
    parts = [
        top_of_logits(project(hidden_CH).float(), k)
        for hidden_CH in hidden_NH.split(chunk_length(vocab_size))
    ]
    ids, logprobs = zip(*parts, strict=True)
    return torch.cat(ids), torch.cat(logprobs)


def top_of_logits(logits_CV: Tensor, k: int) -> tuple[Tensor, Tensor]:
    values_CK, ids_CK = logits_CV.topk(k, dim=1)
    return ids_CK, values_CK - logits_CV.logsumexp(dim=1, keepdim=True)


def _chunks(
    index_M: Tensor | None, num_positions: int, size: int, device: torch.device
) -> list[Tensor]:
    if index_M is None:
        index_M = torch.arange(num_positions, device=device)
    return [] if len(index_M) == 0 else list(index_M.split(size))


def _chunk_logprobs(project: Project, hidden_CH: Tensor, target_CK: Tensor) -> Tensor:
    return project(hidden_CH).float().log_softmax(dim=1).gather(1, target_CK)
