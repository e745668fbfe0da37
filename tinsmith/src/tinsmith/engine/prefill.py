"""The first pass of new requests: their prompts, packed, up to their first tokens.

Shape suffixes: T packed tokens, N positions, H hidden size, V vocabulary, B sequences.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from tinsmith.domain.outcomes import TopK
from tinsmith.engine.active_rows import ActiveRows, by_adapter
from tinsmith.engine.adapter import FrozenAdapter
from tinsmith.engine.base_model import BaseModel
from tinsmith.engine.next_tokens import Chosen, SamplingSettings, choose
from tinsmith.engine.sample_request import FILLER_LOGPROB, FILLER_TOKEN, SampleRequest
from tinsmith.nn.context import Prefill, Segment
from tinsmith.nn.kv_cache import KVCache
from tinsmith.nn.logprobs import target_logprobs, top_logprobs
from tinsmith.nn.sequences import PackedSequences


def run_prefill(
    base: BaseModel,
    cache: KVCache,
    rows: ActiveRows,
    admitted: Sequence[tuple[SampleRequest, int]],
) -> Chosen:
    """Run the prompts once each, score them where asked, and choose every new sequence's first
    token.

    Args:
        admitted: requests, and how many of each one's sequences to start.

    Returns:
        The first tokens of the rows that were added to `cache` and `rows`, in their order.
    """
    order, _ = by_adapter([request.adapter for request, _ in admitted])
    admitted = [admitted[i] for i in order]
    requests = [request for request, _ in admitted]
    prompts = [request.sample.prompt for request in requests]
    sequences = PackedSequences([len(prompt) for prompt in prompts], base.device)
    first_row = cache.add_rows(sequences.lengths)
    attend = Prefill(sequences, cache, first_row)
    token_T = torch.from_numpy(np.concatenate(prompts).astype(np.int64)).to(base.device)
    hidden_TH = base.hidden(
        token_T, sequences.position_ids[0], _token_segments(requests, sequences), attend
    )
    _score_prompts(base, requests, sequences, token_T, hidden_TH)
    # A prompt's further samples follow behind all prompts: (request, prompt) by row.
    source_of_row = list(range(len(prompts)))
    for prompt, (_, count) in enumerate(admitted):
        if count > 1:
            cache.copy_row(first_row + prompt, count - 1)
            source_of_row.extend([prompt] * (count - 1))
    for prompt in source_of_row:
        request = requests[prompt]
        rows.add(request, request.num_started)
        request.num_started += 1
    last = [
        start + length - 1
        for start, length in zip(sequences.starts, sequences.lengths, strict=True)
    ]
    hidden_BH = hidden_TH[torch.tensor(last, device=base.device)]
    _, segments = by_adapter([request.adapter for request in requests])
    logits_BV = base.logits(hidden_BH, segments)
    if len(source_of_row) > len(prompts):
        logits_BV = logits_BV[torch.tensor(source_of_row, device=base.device)]
    new_rows = np.arange(first_row, len(rows))
    settings = SamplingSettings(rows.settings(new_rows), base.device)
    return choose(logits_BV, settings, np.zeros(len(new_rows), dtype=np.int64))


def _token_segments(requests: Sequence[SampleRequest], sequences: PackedSequences) -> list[Segment]:
    """The segments of the packed prompts, which are ordered by adapter."""
    spans: list[tuple[FrozenAdapter | None, int, int]] = []
    for request, start, length in zip(requests, sequences.starts, sequences.lengths, strict=True):
        if spans and spans[-1][0] is request.adapter:
            spans[-1] = (request.adapter, spans[-1][1], start + length)
        else:
            spans.append((request.adapter, start, start + length))
    return [a.segment(start, stop) for a, start, stop in spans if a is not None]


def _score_prompts(
    base: BaseModel,
    requests: Sequence[SampleRequest],
    sequences: PackedSequences,
    token_T: Tensor,
    hidden_TH: Tensor,
) -> None:
    """Fill the requests' prompt logprobs. Position p is scored from the hidden state at p - 1."""
    for request, start, length in zip(requests, sequences.starts, sequences.lengths, strict=True):
        sample, first = request.sample, request.scored_from
        if request.num_started > 0:  # scored when its first samples were started
            continue
        adapter = request.adapter
        output = base.output_layer(None if adapter is None else adapter.segment(0, length))
        hidden_NH = hidden_TH[start + first - 1 : start + length - 1]
        if sample.prompt_logprobs:
            request.prompt_logprobs = np.full(length, np.nan, dtype=np.float32)
            if len(hidden_NH):
                target_N1 = token_T[start + first : start + length, None]
                everywhere = torch.ones(len(target_N1), dtype=torch.bool, device=base.device)
                logprob_N1 = target_logprobs(output, hidden_NH, target_N1, everywhere)
                request.prompt_logprobs[first:] = logprob_N1[:, 0].cpu().numpy()
        if sample.topk_prompt_logprobs:
            shape = (length, sample.topk_prompt_logprobs)
            top = TopK(
                np.full(shape, FILLER_TOKEN, dtype=np.int32),
                np.full(shape, FILLER_LOGPROB, dtype=np.float32),
            )
            if len(hidden_NH):
                ids, logprobs = top_logprobs(output, hidden_NH, shape[1])
                top.token_ids[first:] = ids.cpu().numpy()
                top.logprobs[first:] = logprobs.cpu().numpy()
            request.topk_prompt_logprobs = top
