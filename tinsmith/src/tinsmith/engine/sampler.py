"""Continuous batching: sequences of all samplers of a base model, generated together.

A turn is either one pass over prompts, or as much of them as its budget of tokens allows, or one
decode step (one more token for every active sequence). While there is work for both they
alternate, so that a long prompt holds nobody up. Requests join and leave between turns.

Who joins is decided between projects as scheduler.fair_share says (Sheng et al., "Fairness in
Serving Large Language Models", OSDI 2024, keep account of the same for a batch of this kind); and
who holds more of the room than another who waits gives some back.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping

import numpy as np
import torch
from numpy.typing import NDArray

from tinsmith.domain.ops import Sample
from tinsmith.domain.outcomes import Failed, FailureCategory, Outcome, StopReason, Succeeded
from tinsmith.engine.active_rows import ActiveRows, Told
from tinsmith.engine.adapter import FrozenAdapter
from tinsmith.engine.base_model import BaseModel
from tinsmith.engine.block_pool import BlockPool
from tinsmith.engine.next_tokens import Chosen, choose
from tinsmith.engine.prefill import Chunk, run_prefill
from tinsmith.engine.room import Room
from tinsmith.engine.sample_request import DecodeText, SampleRequest
from tinsmith.engine.sampler_counts import SamplerCounts
from tinsmith.engine.sequence import Sequence
from tinsmith.engine.waiting_line import WaitingLine
from tinsmith.nn.cached_sequences import Decode
from tinsmith.nn.kv_cache import BLOCK, KVCache
from tinsmith.scheduler.fair_share import Weights

Outcomes = list[tuple[str, Outcome]]


class Sampler:
    """Not thread-safe; shares its base model with trainers, turn by turn."""

    def __init__(
        self,
        base: BaseModel,
        *,
        decode_text: DecodeText | None = None,
        prefill_tokens: int = 4096,
        max_active_sequences: int = 256,
        max_cache_bytes: int = 4 << 30,
        weights: Weights | None = None,
    ) -> None:
        """
        Args:
            decode_text: for stop strings; requests that have any are refused without it.
            prefill_tokens: the most prompt tokens in one turn.
            max_cache_bytes: of keys and values; a sequence that needs more on its own goes alone.
            weights: of the projects; may change between turns.
        """
        self._base = base
        self._decode_text = decode_text
        self._prefill_tokens = prefill_tokens
        self._max_rows = max_active_sequences
        self.block_bytes = base.cache_bytes_per_token * BLOCK
        self.max_blocks = max_cache_bytes // self.block_bytes
        """Of the cache: used ones, and those whose content may be wanted again."""
        self.counts = SamplerCounts()
        self.step_tokens: Mapping[str, int] = {}
        """Read and generated in the last step, by project."""
        self.step_began: list[str] = []
        """Requests whose prompts, or parts of them, were read in it."""
        self._weights = {} if weights is None else weights
        self._num_arrived = 0
        self._told: list[Told] = []
        self._clear()

    def _clear(self) -> None:
        self._under_way: list[Chunk] = []
        """What a pass is at: its sequences are neither waiting nor active."""
        self._cache = KVCache(self._base.device)
        self._pool = BlockPool(self.max_blocks)
        self._waiting = WaitingLine(self._pool, self._prefill_tokens, self._weights)
        self._rows = ActiveRows(self._base.device)
        self._room = Room(self._pool, self._rows, self._waiting, self._weights, self.counts)
        self._was_prefill = False

    @property
    def num_waiting(self) -> int:
        """Requests of which some sequence has not been started."""
        return self.waiting_by_project.total()

    @property
    def waiting_by_project(self) -> Counter[str]:
        """Requests of which some sequence has not been started."""
        return Counter(request.owner for request in self._waiting.requests())

    @property
    def num_active(self) -> int:
        """Sequences being generated."""
        return len(self._rows)

    @property
    def num_blocks_used(self) -> int:
        """Blocks of the cache that sequences hold."""
        return self._pool.num_used

    @property
    def num_blocks_reusable(self) -> int:
        """Blocks that no sequence holds and that the next prompts may begin with."""
        return self._pool.num_unused

    @property
    def has_work(self) -> bool:
        return len(self._waiting) + len(self._rows) > 0

    @property
    def projects(self) -> Collection[str]:
        """Whose sequences wait or are being generated."""
        return self._rows.projects().keys() | self._waiting.projects

    def add(
        self, request_id: str, sample: Sample, adapter: FrozenAdapter | None, owner: str = ""
    ) -> None:
        """Queue a request.

        Args:
            adapter: None is the base model itself.
            owner: whose request it is; what is kept of prompts is shared between one owner's.

        Raises:
            InvalidInputError: the request can't be served; it has not been queued.
        """
        request = SampleRequest(
            request_id, sample, adapter, self._base, self._decode_text, owner, self._num_arrived
        )
        self._num_arrived += 1
        self._waiting.add(Sequence(request, number) for number in range(sample.num_samples))

    def cancel(self, request_ids: Collection[str]) -> None:
        """Forget these requests, between turns; ids that are not here do no harm."""
        requests = self._waiting.requests()
        self._waiting.drop({one for one in requests if one.request_id in request_ids})
        rows = [
            row for row in range(len(self._rows)) if self._rows.owner(row).request_id in request_ids
        ]
        self._remove(rows)

    def take_told(self) -> list[Told]:
        """The tokens since the last call of requests that want to hear of them early."""
        told, self._told = self._told, []
        return told

    @torch.inference_mode()
    def step(self) -> Outcomes:
        """Take one turn; returns the requests that it finished."""
        self.step_tokens, self.step_began = {}, []
        if len(self._waiting) and not (self._was_prefill and len(self._rows)):
            self._room.make_way(self._max_rows)
            num_rows = len(self._rows)
            self._under_way = self._waiting.next_chunks(
                self._max_rows - num_rows, self._room.take_blocks, is_alone=num_rows == 0
            )
            if self._under_way:
                self._cache.reserve(self._pool.num_blocks)
                self._was_prefill = True
                return self._prefill()
        self._was_prefill = False
        return self._decode() if len(self._rows) else []

    def reset(self) -> list[str]:
        """Forget everything after step() has raised; returns the requests that are lost."""
        requests = [chunk.sequence.request for chunk in self._under_way]
        requests += self._waiting.requests()
        requests += [self._rows.owner(row) for row in range(len(self._rows))]
        self._clear()
        return list(dict.fromkeys(request.request_id for request in requests))

    def _prefill(self) -> Outcomes:
        chunks, first_row = self._under_way, len(self._rows)
        read: Counter[str] = Counter()
        for chunk in chunks:
            read[chunk.sequence.request.owner] += len(chunk)
            self.step_began.append(chunk.sequence.request.request_id)
        self.step_tokens = read
        chosen = run_prefill(self._base, self._cache, self._rows, chunks)
        self._under_way = []
        if chosen is None:
            return []
        new_rows = np.arange(first_row, len(self._rows))
        for row in new_rows.tolist():
            sequence = self._rows.sequence(row)
            if len(sequence.logprobs):  # it had been put back
                continue
            self.counts.prompt_tokens += len(sequence.tokens)
            self.counts.cached_prompt_tokens += sequence.num_found
            if sequence.number == 0:
                sequence.request.num_cached = sequence.num_found
        return self._take(new_rows, chosen)

    def _decode(self) -> Outcomes:
        self._room.extend_rows()
        self._cache.reserve(self._pool.num_blocks)
        rows, order = self._rows, self._rows.order()
        tokens, positions, tables = rows.newest_tokens(order.row_of_token)
        attend = Decode(self._cache, tables, positions)
        token_T = torch.from_numpy(tokens).to(self._base.device)
        hidden_TH = self._base.hidden(token_T, attend.position_B, order.segments, attend)
        logits_TV = self._base.logits(hidden_TH, order.segments)
        chosen = choose(
            self._base, logits_TV, order.settings, rows.num_generated(order.row_of_token)
        )
        for row in rows.filled_up(order.row_of_token):
            sequence = rows.sequence(row)
            sequence.publish(self._pool, rows.tokens(row), len(sequence.blocks))
        self.counts.decode_steps += 1
        self.step_tokens = rows.projects()
        self._waiting.charge(self.step_tokens)
        return self._take(order.row_of_token, chosen)

    def _take(self, rows: NDArray[np.int64], chosen: Chosen) -> Outcomes:
        """Record a token for each of these rows, and let go of those that are done."""
        outcomes: Outcomes = []
        gone: set[int] = set()
        finished = self._rows.record(rows, chosen)
        self.counts.generated_tokens += len(rows)
        self._told += self._rows.told(rows, chosen)
        is_broken = ~np.isfinite(chosen.logprobs)
        if is_broken.any():
            for request in {self._rows.owner(row) for row in rows[is_broken].tolist()}:
                outcomes.append((request.request_id, _not_finite()))
                gone.update(self._rows.rows_of(request))
                self._waiting.drop({request})
        for row, reason in finished.items():
            if row not in gone:
                outcomes.extend(self._finish(row, reason))
        gone.update(finished)
        self._remove(sorted(gone))
        return outcomes

    def _remove(self, rows: list[int]) -> None:
        if not rows:
            return
        for sequence in self._rows.remove(rows):
            self._pool.release(sequence.blocks)
        if self._pool.num_blocks > self._pool.capacity and not self.has_work:
            # One sequence was too long: give back what it took beyond the limit.
            self._clear()

    def _finish(self, row: int, reason: StopReason) -> Outcomes:
        sequence = self._rows.sequence(row)
        tokens, logprobs, topk = self._rows.result(row)
        request = sequence.request
        result = request.finish_sequence(sequence.number, tokens, logprobs, reason, topk)
        return [] if result is None else [(request.request_id, Succeeded(result))]


def _not_finite() -> Failed:
    return Failed(
        FailureCategory.USER,
        "the model's output is not finite: the adapter has diverged in training (try a lower "
        "learning rate)",
    )
