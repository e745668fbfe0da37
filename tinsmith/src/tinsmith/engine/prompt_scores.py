"""What a request wants to know of its prompt's tokens, as it is filled in part by part.

Position p of a prompt is scored from the hidden state at p - 1. Parts come in order, and after a
sequence had to begin anew they come again.

Shape suffixes: N positions of a part, H hidden size, V vocabulary, K draws, M cells.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from tinsmith.domain.matrix import NO_TARGET, Matrix
from tinsmith.domain.ops import Sample
from tinsmith.domain.outcomes import AltTokens, TopK
from tinsmith.nn.logprobs import OutputLayer, listed_logprobs, target_logprobs, top_logprobs
from tinsmith.nn.sampling import derive_seed, draw, uniforms

FILLER_TOKEN, FILLER_LOGPROB = 0, -99999.0
"""What the API puts into top-k rows that were not computed."""


class PromptScore(Protocol):
    field: str
    """Of Sampled, which the result is."""
    first: int
    """The first position that is scored."""

    @property
    def result(self) -> Any: ...

    def fill(self, output: OutputLayer, hidden_NH: Tensor, start: int) -> None:
        """Score the positions [start, start + N), none of them before `first`."""
        ...


def asks_prompt_scores(sample: Sample) -> bool:
    return bool(
        sample.prompt_logprobs
        or sample.topk_prompt_logprobs
        or sample.target_prompt_logprobs is not None
        or sample.prompt_alt_tokens_k
    )


def prompt_scores_of(sample: Sample) -> tuple[PromptScore, ...]:
    """All that is asked for, still to be filled in; takes the memory of the whole result."""
    scores: list[PromptScore] = []
    if sample.prompt_logprobs:
        scores.append(PromptLogprobs(sample))
    if sample.topk_prompt_logprobs:
        scores.append(TopPromptLogprobs(sample))
    if sample.target_prompt_logprobs is not None:
        scores.append(PromptTargets(sample.target_prompt_logprobs))
    if sample.prompt_alt_tokens_k:
        scores.append(PromptDraws(sample))
    return tuple(scores)


class PromptLogprobs:
    field = "prompt_logprobs"

    def __init__(self, sample: Sample) -> None:
        self.first = _suffix_start(sample)
        self._prompt = sample.prompt
        self.result = np.full(len(sample.prompt), np.nan, dtype=np.float32)

    def fill(self, output: OutputLayer, hidden_NH: Tensor, start: int) -> None:
        stop = start + len(hidden_NH)
        target_N1 = torch.from_numpy(self._prompt[start:stop].astype(np.int64))[:, None]
        everywhere = torch.ones(len(target_N1), dtype=torch.bool, device=hidden_NH.device)
        target_N1 = target_N1.to(hidden_NH.device)
        logprob_N1 = target_logprobs(output, hidden_NH, target_N1, everywhere)
        self.result[start:stop] = logprob_N1[:, 0].cpu().numpy()


class TopPromptLogprobs:
    field = "topk_prompt_logprobs"

    def __init__(self, sample: Sample) -> None:
        self.first = _suffix_start(sample)
        shape = (len(sample.prompt), sample.topk_prompt_logprobs)
        self.result = TopK(
            np.full(shape, FILLER_TOKEN, dtype=np.int32),
            np.full(shape, FILLER_LOGPROB, dtype=np.float32),
        )

    def fill(self, output: OutputLayer, hidden_NH: Tensor, start: int) -> None:
        stop = start + len(hidden_NH)
        ids, logprobs = top_logprobs(output, hidden_NH, self.result.token_ids.shape[1])
        self.result.token_ids[start:stop] = ids.cpu().numpy()
        self.result.logprobs[start:stop] = logprobs.cpu().numpy()


class PromptTargets:
    """Of the tokens that were named: row i of the targets stands at position i + 1."""

    field = "target_prompt_logprobs"

    def __init__(self, targets: Matrix) -> None:
        (self._cell_M,) = np.nonzero(targets.values != NO_TARGET)
        self._position_M = targets.rows[self._cell_M] + 1
        self._token_M = targets.values[self._cell_M].astype(np.int64)
        self._logprobs = np.zeros(len(targets.values), dtype=np.float32)
        self.first = int(self._position_M[0])
        self.result = replace(targets, values=self._logprobs)

    def fill(self, output: OutputLayer, hidden_NH: Tensor, start: int) -> None:
        low, high = np.searchsorted(self._position_M, (start, start + len(hidden_NH)))
        if low == high:
            return
        # Only the positions that anything was asked of go through the output layer.
        position, row_M = np.unique(self._position_M[low:high], return_inverse=True)
        place, token_M = (
            torch.from_numpy(position - start),
            torch.from_numpy(self._token_M[low:high]),
        )
        device = hidden_NH.device
        logprob_M = listed_logprobs(
            output,
            hidden_NH.index_select(0, place.to(device)),
            torch.from_numpy(row_M).to(device),
            token_M.to(device),
        )
        self._logprobs[self._cell_M[low:high]] = logprob_M.cpu().numpy()


class PromptDraws:
    """Tokens that might have stood at each position, drawn at the request's temperature."""

    field = "prompt_alt_tokens"
    first = 1

    def __init__(self, sample: Sample) -> None:
        shape = (len(sample.prompt) - 1, sample.prompt_alt_tokens_k)
        self._temperature = sample.params.temperature
        # Streams of their own: numbers from 0 on belong to the request's samples.
        self._seed_K = np.array(
            [derive_seed(sample.params.seed, -1 - k) for k in range(shape[1])], dtype=np.uint64
        )
        self.result = AltTokens(np.zeros(shape, np.int32), np.zeros(shape, np.float32))

    def fill(self, output: OutputLayer, hidden_NH: Tensor, start: int) -> None:
        for hidden_CH in hidden_NH.split(output.chunk_length):
            stop = start + len(hidden_CH)
            logits_CV = output.logits(hidden_CH)
            seeds = np.tile(self._seed_K, len(hidden_CH))
            places = np.repeat(np.arange(start, stop), len(self._seed_K))
            uniform_CK = uniforms(seeds, places).reshape(len(hidden_CH), -1)
            token_CK = draw(logits_CV, self._temperature, torch.from_numpy(uniform_CK))
            self.result.token_ids[start - 1 : stop - 1] = token_CK.cpu().numpy()
            logprob_CK = logits_CV.gather(1, token_CK) - logits_CV.logsumexp(dim=1, keepdim=True)
            self.result.logprobs[start - 1 : stop - 1] = logprob_CK.cpu().numpy()
            start = stop


def _suffix_start(sample: Sample) -> int:
    last_n = sample.prompt_logprobs_last_n
    return 1 if last_n is None else max(1, len(sample.prompt) - last_n)
