"""Proof at load time that we compute what the model's own code computes.

Architectures differ in ways that a configuration does not always tell (another mask, a scaled
output, state that leaks along the pack). A dozen tokens through both paths show it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from tinsmith.domain.errors import InvalidInputError
from tinsmith.nn.attention import ATTENTION_NAME
from tinsmith.nn.context import Prefill
from tinsmith.nn.sequences import PackedSequences

if TYPE_CHECKING:
    from tinsmith.engine.base_model import BaseModel

_LENGTHS = (9, 5)


@torch.inference_mode()
def check_against_reference(base: BaseModel) -> None:
    """Compare our packed logits of the second of two sequences with those of transformers' eager
    attention on that sequence alone; leaves our attention switched on.

    Raises:
        InvalidInputError: they differ by more than the dtype explains, or are not finite.
    """
    sequences = PackedSequences(_LENGTHS, base.device)
    spread = torch.arange(sequences.num_tokens, device=base.device) * 7919 + 13
    token_T = spread % base.vocab_size
    try:
        base.model.set_attn_implementation("eager")
        wanted = base.model(input_ids=token_T[None, -_LENGTHS[1] :], use_cache=False).logits[0]
        base.model.set_attn_implementation(ATTENTION_NAME)
        hidden = base.hidden(token_T, sequences.position_ids[0], (), Prefill(sequences))
        ours = base.logits(hidden[-_LENGTHS[1] :], ())
    except (ValueError, TypeError, AttributeError, KeyError) as error:
        raise InvalidInputError(
            f"model type {base.model.config.model_type!r} is not supported: {error}"
        ) from error
    wanted = wanted.float()
    if not torch.isfinite(wanted).all():
        raise InvalidInputError("the base model's output is not finite: its weights are damaged")
    spread = (wanted - wanted.mean(dim=1, keepdim=True)).abs().max()
    gap = float((ours - wanted).abs().max() / spread.clamp(min=1e-30))
    tolerance = 1e-3 if base.dtype in (torch.float32, torch.float64) else 0.1
    if gap > tolerance:
        raise InvalidInputError(
            f"model type {base.model.config.model_type!r} is not supported: packed execution "
            f"differs from the model's own by {gap:.2g} of the logits' range"
        )
