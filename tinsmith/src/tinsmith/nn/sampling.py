"""Choosing the next token of each sequence.

Shape suffixes: B sequences, V vocabulary, K draws.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

_GOLDEN = 0x9E3779B97F4A7C15
_MASK = (1 << 64) - 1


def derive_seed(seed: int, sample: int) -> int:
    """The seed of one of a request's samples, 64 bits. Seeds that differ a little lead to streams
    that have nothing in common."""
    mixed = _mix(np.array([seed & _MASK], dtype=np.uint64))
    offset = np.array([((sample + 1) * _GOLDEN) & _MASK], dtype=np.uint64)
    return int(_mix(mixed + offset)[0])


def uniforms(seeds_B: NDArray[np.uint64], steps_B: NDArray[np.int64]) -> NDArray[np.float64]:
    """Number `step` of the stream that belongs to `seed`, in [0, 1), for each sequence.

    A counter instead of a generator object: one vectorised call serves all sequences, the result
    depends on nothing but its two arguments, and no device has a stream of its own.
    Source: SplitMix64; Steele, Lea and Flood, "Fast splittable pseudorandom number generators",
    2014.
    """
    state_B = seeds_B + (steps_B.astype(np.uint64) + np.uint64(1)) * np.uint64(_GOLDEN)
    return (_mix(state_B) >> np.uint64(11)).astype(np.float64) * 2.0**-53


def _mix(z: NDArray[np.uint64]) -> NDArray[np.uint64]:
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return z ^ (z >> np.uint64(31))


def likeliest(logits_BV: Tensor) -> tuple[Tensor, Tensor]:
    """The likeliest token, int64 [B], the lowest id among equals, and its log p."""
    token_B = logits_BV.argmax(dim=1)
    return token_B, logprob_of(logits_BV, token_B)


def logprob_of(logits_BV: Tensor, token_B: Tensor) -> Tensor:
    return logits_BV.gather(1, token_B[:, None])[:, 0] - logits_BV.logsumexp(dim=1)


def sample(
    logits_BV: Tensor,
    temperature_B: Tensor,
    top_k_B: Tensor,
    top_p_B: Tensor,
    uniform_B: Tensor,
) -> Tensor:
    """Draw one token per sequence.

    The temperature comes first, then top-k, then top-p over what is left.

    Args:
        temperature_B: above 0.
        top_k_B: int64; below 1 means no limit.
        top_p_B: keep the likeliest tokens up to and including the one at which their
            probabilities reach this sum; 1 means no limit.
        uniform_B: fp64 in [0, 1), one random number per sequence.

    Returns:
        int64 [B].
    """
    vocab_size = logits_BV.shape[1]
    scaled_BV = logits_BV.float() / temperature_B.unsqueeze(1)
    if bool((top_k_B < 1).all()) and bool((top_p_B >= 1).all()):
        return _draw(scaled_BV.softmax(dim=1), uniform_B[:, None])[:, 0]
    sorted_BV, token_BV = scaled_BV.sort(dim=1, descending=True, stable=True)
    limit_B = torch.where(top_k_B < 1, vocab_size, top_k_B)
    rank_V = torch.arange(vocab_size, device=logits_BV.device)
    sorted_BV = sorted_BV.masked_fill(rank_V >= limit_B.unsqueeze(1), -torch.inf)
    p_BV = sorted_BV.softmax(dim=1)
    before_BV = p_BV.cumsum(dim=1) - p_BV
    # A top_p of 0 still keeps the first token: nothing stands before it.
    p_BV = p_BV.masked_fill((before_BV >= top_p_B.unsqueeze(1)) & (rank_V > 0), 0.0)
    return token_BV.gather(1, _draw(p_BV, uniform_B[:, None]))[:, 0]


def draw(logits_BV: Tensor, temperature: float, uniform_BK: Tensor) -> Tensor:
    """K tokens per sequence, independently of each other, from all of the vocabulary.

    Args:
        temperature: 0 takes the likeliest token K times.
        uniform_BK: fp64 in [0, 1).

    Returns:
        int64 [B, K].
    """
    if temperature == 0.0:
        return logits_BV.argmax(dim=1, keepdim=True).expand(uniform_BK.shape)
    return _draw((logits_BV.float() / temperature).softmax(dim=1), uniform_BK)


def _draw(p_BV: Tensor, uniform_BK: Tensor) -> Tensor:
    """The columns at which the cumulated weights pass uniform * their sum."""
    cumulated_BV = p_BV.to(_widest(p_BV)).cumsum(dim=1)
    threshold_BK = uniform_BK.to(cumulated_BV) * cumulated_BV[:, -1:]
    drawn_BK = torch.searchsorted(cumulated_BV, threshold_BK, right=True)
    # Rounding may carry the threshold to the very sum: take the last column with any weight.
    last_B = p_BV.shape[1] - 1 - (p_BV > 0).flip(1).int().argmax(dim=1)
    return torch.minimum(drawn_BK, last_B[:, None])


def _widest(tensor: Tensor) -> torch.dtype:
    """fp64 where the device has it: a sum over a large vocabulary in fp32 loses rare tokens."""
    return torch.float32 if tensor.device.type == "mps" else torch.float64
