"""What quantising costs: the loss of a model on the same text, with and without it.

Shape suffixes: T tokens of the text, V vocabulary.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from torch.nn import functional
from transformers import AutoTokenizer

from tinsmith.domain.errors import InvalidInputError
from tinsmith.engine.base_model import BaseModel
from tinsmith.nn.context import Prefill
from tinsmith.nn.sequences import PackedSequences

TEXT = """Subject: Re: Delivery of the two printers

Dear Ms Winter,

thank you for your message. The printers left our warehouse on Monday and should reach you by
Thursday. The invoice over 1,240.50 euros is attached; please pay within thirty days and name the
order number with your transfer. If nobody can accept the parcel, the driver will leave it with a
neighbour and put a note into your letter box.

Could you tell me until tomorrow whether the old devices are to be collected as well? We would then
send a second driver, who takes them away free of charge.

Kind regards
Jonas Albrecht
"""
"""Ordinary words of our own, as every model has read their like and none has read these."""


@dataclass(frozen=True, slots=True)
class LossGap:
    num_tokens: int
    loss: float
    """Mean negative log-likelihood of a token in nats, in the compute dtype."""
    quantized_loss: float

    @property
    def gap(self) -> float:
        return self.quantized_loss - self.loss


def measure_loss_gap(
    directory: str | Path,
    device: torch.device,
    dtype: torch.dtype,
    quantize: str,
    text: str = TEXT,
) -> LossGap:
    """Load the model both ways, one after the other, and read `text` with each.

    Args:
        directory: a local folder with the model and its tokenizer.
        quantize: 8bit or 4bit.

    Raises:
        InvalidInputError: no tokenizer, too short a context, or see BaseModel.load.
    """
    try:
        tokens: list[int] = AutoTokenizer.from_pretrained(
            directory, trust_remote_code=False
        ).encode(text)
    except (OSError, ValueError) as error:
        raise InvalidInputError(
            f"cannot read text with the model in {str(directory)!r}: it has no tokenizer ({error})"
        ) from error
    if len(tokens) < 2:  # transformers makes an empty tokenizer up where there is none
        raise InvalidInputError(
            f"cannot read text with the model in {str(directory)!r}: its tokenizer makes "
            f"{len(tokens)} tokens of it"
        )
    quantized = _loss(BaseModel.load(directory, device, dtype, quantize=quantize), tokens)
    plain = _loss(BaseModel.load(directory, device, dtype), tokens)
    return LossGap(len(tokens), plain, quantized)


@torch.inference_mode()
def _loss(base: BaseModel, tokens: list[int]) -> float:
    if len(tokens) > base.context_limit or max(tokens) >= base.vocab_size:
        raise InvalidInputError(
            f"the text has {len(tokens)} tokens up to {max(tokens)}; the model takes "
            f"{base.context_limit}, of a vocabulary of {base.vocab_size}"
        )
    token_T = torch.tensor(tokens, device=base.device)
    sequences = PackedSequences([len(tokens)], base.device)
    hidden_TH = base.hidden(token_T, sequences.position_ids[0], (), Prefill(sequences))
    logits_TV = base.logits(hidden_TH[:-1], ())
    return float(functional.cross_entropy(logits_TV, token_T[1:]))
