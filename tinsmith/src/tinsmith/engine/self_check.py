"""Proof at load time that we compute what the model's own code computes.

Architectures differ in ways that a configuration does not always tell (another mask, a scaled
output, state that leaks along the pack). A dozen tokens through both paths show it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor, nn

from tinsmith.domain.errors import InvalidInputError
from tinsmith.nn.attention import ATTENTION_NAME
from tinsmith.nn.cached_sequences import Decode, Extend, Run
from tinsmith.nn.compiled.decoder import MOST_ROWS
from tinsmith.nn.experts import AdapterExperts
from tinsmith.nn.kv_cache import KVCache

if TYPE_CHECKING:
    from tinsmith.engine.base_model import BaseModel

_LENGTHS = (9, 5)


@torch.inference_mode()
def check_against_reference(base: BaseModel) -> None:
    """Compare our logits of the second of two packed sequences, fed through the cache in three
    passes, with those of transformers' eager attention on that sequence alone. Leaves our
    attention switched on.

    Raises:
        InvalidInputError: they differ by more than the dtype explains, or are not finite.
    """
    model_type = base.model.config.model_type
    token_T = (torch.arange(sum(_LENGTHS), device=base.device) * 7919 + 13) % base.vocab_size
    sequences = token_T.split(list(_LENGTHS))
    try:
        base.model.set_attn_implementation("eager")
        wanted = base.model(input_ids=sequences[1][None], use_cache=False).logits[0].float()
        wanted = torch.cat([wanted, wanted[-1:]])
        base.model.set_attn_implementation(ATTENTION_NAME)
        ours = _packed_logits(base, sequences)
    except (ValueError, TypeError, AttributeError, KeyError, IndexError, RuntimeError) as error:
        raise InvalidInputError(f"model type {model_type!r} cannot be run here: {error}") from error
    if not bool(torch.isfinite(wanted).all()):
        raise InvalidInputError("the base model's output is not finite: its weights are damaged")
    spread = (wanted - wanted.mean(dim=1, keepdim=True)).abs().max()
    gap = float((ours - wanted).abs().max() / spread.clamp(min=1e-30))
    if not gap <= _tolerance(base.dtype):
        raise InvalidInputError(
            f"model type {model_type!r} is not supported: packed execution differs from the "
            f"model's own by {gap:.2g} of the logits' range"
        )
    # Also so that what it takes is compiled before anybody waits for a token.
    _, logprob_N = base.likeliest(ours)
    gap = float((logprob_N - ours.log_softmax(dim=1).amax(dim=1)).abs().max())
    if not gap <= 1e-3:
        raise InvalidInputError(f"likeliest tokens' log p is off by {gap:.2g} on this processor")


@torch.inference_mode()
def check_experts(ours: AdapterExperts, theirs: nn.Module, path: str) -> None:
    """Compare stacked experts without an adapter with the module whose place they take, on a few
    tokens that go to two experts each.

    Raises:
        InvalidInputError: they differ by more than the dtype explains.
    """
    num_experts, _, hidden_size = ours.gate_up_proj.shape
    device, dtype = ours.gate_up_proj.device, ours.gate_up_proj.dtype
    x_TH = torch.linspace(-2, 2, 3 * hidden_size, device=device).sin().view(3, -1).to(dtype)
    expert_TK = torch.tensor([[0, 1], [1, 2], [3, 0]], device=device) % num_experts
    share_TK = torch.tensor([[0.5, 0.5], [0.75, 0.25], [0.9, 0.1]], device=device).to(dtype)
    wanted_TH = theirs(x_TH, expert_TK, share_TK).float()
    gap = (ours(x_TH, expert_TK, share_TK).float() - wanted_TH).abs().max()
    share = float(gap / wanted_TH.abs().max().clamp(min=1e-30))
    if not share <= _tolerance(dtype):
        raise InvalidInputError(
            f"{path} is a {type(theirs).__name__} and not supported: experts with adapters differ "
            f"from the model's own by {share:.2g} of their range"
        )


def _tolerance(dtype: torch.dtype) -> float:
    """Far above rounding in either precision, far below what a wrong mask or scale does."""
    return 1e-3 if dtype in (torch.float32, torch.float64) else 0.1


def _packed_logits(base: BaseModel, sequences: Sequence[Tensor]) -> Tensor:
    """The last sequence's logits: two tokens of each first, then all others but one, then that,
    twice."""
    cache = KVCache(base.device)
    tables_BN = np.arange(len(sequences))[:, None]
    cache.reserve(len(sequences))
    parts, start = [], 0
    for stop in (2, min(_LENGTHS) - 1):
        length = stop - start
        runs = [Run(i * length, start, length, table) for i, table in enumerate(tables_BN)]
        extend = Extend(cache, runs)
        token_T = torch.cat([sequence[start:stop] for sequence in sequences])
        hidden_TH = base.hidden(token_T, extend.position_T, (), extend)
        parts.append(hidden_TH[-length:])
        start = stop
    # Once for few rows and once for many, which go another way.
    for times in (1, MOST_ROWS):
        rows = np.tile(tables_BN.astype(np.int32), (times, 1))
        decode = Decode(cache, rows, np.full(len(rows), start))
        token_B = torch.stack([sequence[start] for sequence in sequences] * times)
        parts.append(base.hidden(token_B, decode.position_B, (), decode)[-1:])
    return base.logits(torch.cat(parts), ())
