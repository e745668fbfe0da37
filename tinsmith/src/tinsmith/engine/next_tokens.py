"""From logits to each sequence's next token and its log-probability.

Shape suffixes: B sequences, V vocabulary.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from tinsmith.engine.base_model import BaseModel
from tinsmith.nn.logprobs import top_of_logits
from tinsmith.nn.sampling import logprob_of, sample, uniforms


class SamplingSettings:
    """How to choose the next token of B sequences."""

    DTYPE = np.dtype(
        [
            ("seed", np.uint64),
            ("temperature", np.float32),
            ("top_k", np.int64),
            ("top_p", np.float32),
            ("num_top", np.int64),
        ]
    )

    def __init__(self, rows: NDArray[np.void], device: torch.device) -> None:
        """Takes the settings of B sequences as records of DTYPE."""
        self.num_top: dict[int, int] = {
            int(i): int(rows["num_top"][i]) for i in np.flatnonzero(rows["num_top"])
        }
        """How many likeliest tokens to report, by sequence, where any."""
        drawn = np.flatnonzero(rows["temperature"] > 0)
        self.drawn = drawn
        """The sequences that draw; the others take the likeliest token."""
        self.seeds = rows["seed"][drawn]
        if len(drawn):
            self.drawn_index = torch.from_numpy(drawn).to(device)
            self.temperature = torch.from_numpy(rows["temperature"][drawn]).to(device)
            self.top_k = torch.from_numpy(rows["top_k"][drawn]).to(device)
            self.top_p = torch.from_numpy(rows["top_p"][drawn]).to(device)


@dataclass(frozen=True, slots=True, eq=False)
class Chosen:
    tokens: NDArray[np.int64]
    logprobs: NDArray[np.float32]
    """Under the model's own distribution: temperature 1, nothing truncated."""
    topk: dict[int, tuple[NDArray[np.int32], NDArray[np.float32]]]
    """The likeliest tokens and their logprobs, for the sequences that asked."""


def choose(
    base: BaseModel,
    logits_BV: Tensor,
    settings: SamplingSettings,
    num_generated_B: NDArray[np.int64],
) -> Chosen:
    """One token for each sequence; `num_generated_B` numbers its random draws."""
    token_B, logprob_B = base.likeliest(logits_BV)
    if len(settings.drawn):
        uniform = uniforms(settings.seeds, num_generated_B[settings.drawn])
        is_all = len(settings.drawn) == len(logits_BV)
        token_B[settings.drawn_index] = sample(
            logits_BV if is_all else logits_BV[settings.drawn_index],
            settings.temperature,
            settings.top_k,
            settings.top_p,
            torch.from_numpy(uniform),
        )
        logprob_B = logprob_of(logits_BV, token_B)
    topk = {}
    for i, k in settings.num_top.items():
        ids, logprobs = top_of_logits(logits_BV[i : i + 1], k)
        topk[i] = (ids[0].cpu().numpy().astype(np.int32), logprobs[0].cpu().numpy())
    return Chosen(token_B.cpu().numpy(), logprob_B.cpu().numpy(), topk)
