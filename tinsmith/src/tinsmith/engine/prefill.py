"""A pass over prompts, or parts of prompts, up to their sequences' next tokens.

Shape suffixes: T packed tokens, N positions, H hidden size, V vocabulary, B sequences.
"""

from __future__ import annotations

from collections.abc import Sequence as Several
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from tinsmith.engine.active_rows import ActiveRows, by_adapter
from tinsmith.engine.adapter import FrozenAdapter
from tinsmith.engine.base_model import BaseModel, Places
from tinsmith.engine.next_tokens import Chosen, SamplingSettings, choose
from tinsmith.engine.sequence import Sequence
from tinsmith.nn.cached_sequences import Extend, Run
from tinsmith.nn.context import Segment
from tinsmith.nn.kv_cache import BLOCK, KVCache


@dataclass(frozen=True, slots=True, eq=False)
class Chunk:
    """Tokens [start, stop) of a sequence, for which it has blocks."""

    sequence: Sequence
    start: int
    stop: int
    followers: list[Sequence] = field(default_factory=list)
    """Further samples of the same prompt, of which this chunk is the end. They have all full blocks
    in common with the sequence, and one of their own for what is left over."""

    @property
    def is_last(self) -> bool:
        return self.stop == len(self.sequence.tokens)

    @property
    def first_scored(self) -> int:
        """The first position of the prompt that the chunk's hidden states score."""
        return max(self.sequence.request.scored_from, self.start + 1)

    @property
    def num_asked(self) -> int:
        """Its last tokens, of which the hidden states are wanted."""
        is_scored = self.sequence.scores_prompt
        return max(1, self.stop + 1 - self.first_scored) if is_scored else 1

    def __len__(self) -> int:
        return self.stop - self.start


def run_prefill(
    base: BaseModel, cache: KVCache, rows: ActiveRows, chunks: Several[Chunk]
) -> Chosen | None:
    """Run the chunks, score prompts where asked, and choose a next token for each sequence that has
    come to its end.

    Returns:
        The tokens of the rows that were added to `rows`, in their order; None if there are none.
    """
    order, _ = by_adapter([chunk.sequence.request.adapter for chunk in chunks])
    chunks = [chunks[i] for i in order]
    starts = np.concatenate([[0], np.cumsum([len(chunk) for chunk in chunks])])
    attend = Extend(
        cache,
        [
            Run(int(start), chunk.start, len(chunk), np.asarray(chunk.sequence.blocks))
            for start, chunk in zip(starts, chunks, strict=False)
        ],
    )
    tokens = [chunk.sequence.tokens[chunk.start : chunk.stop] for chunk in chunks]
    token_T = torch.from_numpy(np.concatenate(tokens).astype(np.int64)).to(base.device)
    counts = [chunk.num_asked for chunk in chunks]
    places = [np.arange(stop - count, stop) for stop, count in zip(starts[1:], counts, strict=True)]
    hidden_MH = base.hidden(
        token_T,
        attend.position_T,
        _segments(chunks),
        attend,
        asked=Places(np.concatenate(places), np.zeros(0, dtype=np.int64)),
    )
    for chunk, hidden_NH in zip(chunks, hidden_MH.split(counts), strict=True):
        chunk.sequence.num_kept = chunk.stop
        if chunk.sequence.scores_prompt:
            _score_prompt(base, chunk, hidden_NH)
    ends = [number for number, chunk in enumerate(chunks) if chunk.is_last]
    if not ends:
        return None
    place_B = torch.from_numpy(np.cumsum(counts)[ends] - 1).to(base.device)
    done = [chunks[number] for number in ends]
    _, segments = by_adapter([chunk.sequence.request.adapter for chunk in done])
    logits_BV = base.logits(hidden_MH.index_select(0, place_B), segments)
    first_row, source_of_row = len(rows), []
    for number, chunk in enumerate(done):
        for sequence in (chunk.sequence, *chunk.followers):
            rows.add(sequence)
            source_of_row.append(number)
        _copy_rest(cache, chunk)
    if len(source_of_row) > len(done):
        logits_BV = logits_BV[torch.tensor(source_of_row, device=base.device)]
    new_rows = np.arange(first_row, len(rows))
    settings = SamplingSettings(rows.settings(new_rows), base.device)
    return choose(base, logits_BV, settings, rows.num_generated(new_rows))


def _copy_rest(cache: KVCache, chunk: Chunk) -> None:
    """Give the followers what no block holds in full."""
    for follower in chunk.followers:
        follower.num_kept = chunk.stop
        if chunk.stop % BLOCK:
            cache.copy(chunk.sequence.blocks[-1], follower.blocks[-1])


def _segments(chunks: Several[Chunk]) -> list[Segment]:
    """Of the packed tokens, which are ordered by adapter."""
    spans: list[tuple[FrozenAdapter | None, int, int]] = []
    start = 0
    for chunk in chunks:
        adapter, stop = chunk.sequence.request.adapter, start + len(chunk)
        if spans and spans[-1][0] is adapter:
            spans[-1] = (adapter, spans[-1][1], stop)
        else:
            spans.append((adapter, start, stop))
        start = stop
    return [a.segment(start, stop) for a, start, stop in spans if a is not None]


def _score_prompt(base: BaseModel, chunk: Chunk, hidden_NH: Tensor) -> None:
    """Fill in what was asked of those of the prompt's tokens that the chunk's hidden states
    foretell: position p is scored from the hidden state at p - 1; `hidden_NH` begins with the first
    that scores anything."""
    request = chunk.sequence.request
    stop = min(len(request.sample.prompt), chunk.stop + 1)
    adapter = request.adapter
    output = base.output_layer(None if adapter is None else adapter.segment(0, len(hidden_NH)))
    first = chunk.first_scored
    for score in request.prompt_scores:
        start = max(score.first, chunk.start + 1)
        if start < stop:
            score.fill(output, hidden_NH[start - first : stop - first], start)
    if chunk.stop >= len(request.sample.prompt):
        request.wants_prompt_scores = False
