"""Continuous batching: sequences of all samplers of a base model, generated together.

A turn is either one prefill (the prompts of waiting requests, packed) or one decode step (one more
token for every active sequence). Requests join and leave between turns.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Collection

import numpy as np
import torch

from tinsmith.domain.ops import Sample
from tinsmith.domain.outcomes import Failed, FailureCategory, Outcome, StopReason, Succeeded
from tinsmith.engine.active_rows import ActiveRows, Told
from tinsmith.engine.adapter import FrozenAdapter
from tinsmith.engine.base_model import BaseModel
from tinsmith.engine.next_tokens import Chosen, choose
from tinsmith.engine.prefill import run_prefill
from tinsmith.engine.sample_request import DecodeText, SampleRequest
from tinsmith.nn.context import Decode
from tinsmith.nn.kv_cache import KVCache

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
    ) -> None:
        """
        Args:
            decode_text: for stop strings; requests that have any are refused without it.
            prefill_tokens: the most prompt tokens in one turn; a longer prompt goes alone.
            max_cache_bytes: of keys and values; a sequence that needs more on its own goes alone.
        """
        self._base = base
        self._decode_text = decode_text
        self._prefill_tokens = prefill_tokens
        self._max_rows = max_active_sequences
        self._max_cache_tokens = max_cache_bytes // base.cache_bytes_per_token
        self._waiting: deque[SampleRequest] = deque()
        self._starting: list[SampleRequest] = []
        """Requests whose prefill is under way: neither waiting nor active."""
        self._cache = KVCache(base.device)
        self._rows = ActiveRows(base.device)
        self._told: list[Told] = []

    @property
    def num_waiting(self) -> int:
        """Requests of which some sequence has not been started."""
        return len(self._waiting)

    @property
    def num_active(self) -> int:
        """Sequences being generated."""
        return len(self._rows)

    def add(self, request_id: str, sample: Sample, adapter: FrozenAdapter | None) -> None:
        """Queue a request; None for the adapter is the base model itself.

        Raises:
            InvalidInputError: the request can't be served; it has not been queued.
        """
        self._waiting.append(
            SampleRequest(request_id, sample, adapter, self._base, self._decode_text)
        )

    @torch.inference_mode()
    def cancel(self, request_ids: Collection[str]) -> None:
        """Forget these requests, between turns; ids that are not here do no harm."""
        self._waiting = deque(one for one in self._waiting if one.request_id not in request_ids)
        gone = [
            row for row in range(len(self._rows)) if self._rows.owner(row).request_id in request_ids
        ]
        if gone:
            moves = self._cache.remove_rows(gone)
            self._rows.apply_moves(moves, self._cache.num_rows)

    def take_told(self) -> list[Told]:
        """The tokens since the last call of requests that want to hear of them early."""
        told, self._told = self._told, []
        return told

    @torch.inference_mode()
    def step(self) -> Outcomes:
        """Take one turn; returns the requests that it finished. Waiting requests go first, since
        a fuller step costs hardly more than an emptier one."""
        admitted = self._admit()
        if admitted:
            self._starting = [request for request, _ in admitted]
            outcomes = self._prefill(admitted)
            self._starting = []
            return outcomes
        if len(self._rows):
            return self._decode()
        return []

    def reset(self) -> list[str]:
        """Forget everything after step() has raised; returns the requests that are lost."""
        lost = {request.request_id: None for request in (*self._starting, *self._waiting)}
        lost.update({self._rows.owner(row).request_id: None for row in range(len(self._rows))})
        self._starting = []
        self._waiting.clear()
        self._cache = KVCache(self._base.device)
        self._rows = ActiveRows(self._base.device)
        return list(lost)

    def _admit(self) -> list[tuple[SampleRequest, int]]:
        """The waiting requests that fit into this turn, in order of arrival, each with the number
        of its sequences to start now. Nobody overtakes one that does not fit yet."""
        admitted: list[tuple[SampleRequest, int]] = []
        if not self._waiting:
            return admitted
        tokens, rows, longest = 0, len(self._rows), self._rows.longest
        while self._waiting:
            request = self._waiting[0]
            tokens += len(request.sample.prompt)
            longest = max(longest, request.longest)
            if admitted and tokens > self._prefill_tokens:
                break
            count = request.num_unstarted
            while count and not self._fits(rows + count, longest):
                count -= 1
            if count == 0 and rows == 0:
                count = 1
            if count == 0:
                break
            admitted.append((request, count))
            rows += count
            if count < request.num_unstarted:
                break
            self._waiting.popleft()
        return admitted

    def _fits(self, num_rows: int, longest: int) -> bool:
        return (
            num_rows <= self._max_rows
            and KVCache.capacity_tokens(num_rows, longest) <= self._max_cache_tokens
        )

    def _prefill(self, admitted: list[tuple[SampleRequest, int]]) -> Outcomes:
        first_row = len(self._rows)
        chosen = run_prefill(self._base, self._cache, self._rows, admitted)
        return self._take(np.arange(first_row, len(self._rows)), chosen)

    def _decode(self) -> Outcomes:
        rows, cache = self._rows, self._cache
        order = rows.order()
        position_T = cache.begin_step()
        token_T = torch.from_numpy(rows.last_tokens()[order.row_of_token]).to(self._base.device)
        attend = Decode(cache)
        if not order.is_row_order:
            position_T = position_T[order.row_of_token_tensor]
            attend = Decode(cache, order.row_of_token_tensor, order.token_of_row_tensor)
        hidden_TH = self._base.hidden(token_T, position_T, order.segments, attend)
        logits_TV = self._base.logits(hidden_TH, order.segments)
        chosen = choose(logits_TV, order.settings, rows.num_generated(order.row_of_token))
        return self._take(order.row_of_token, chosen)

    def _take(self, rows: np.ndarray, chosen: Chosen) -> Outcomes:
        """Record a token for each of these rows, and let go of those that are done."""
        outcomes: Outcomes = []
        gone: set[int] = set()
        finished = self._rows.record(rows, chosen)
        is_broken = ~np.isfinite(chosen.logprobs)
        self._told += self._rows.told(rows, chosen)
        if is_broken.any():
            for request in {self._rows.owner(row) for row in rows[is_broken].tolist()}:
                outcomes.append((request.request_id, _not_finite()))
                gone.update(self._rows.rows_of(request))
                if request in self._waiting:
                    self._waiting.remove(request)
        for row, reason in finished.items():
            if row not in gone:
                outcomes.extend(self._finish(row, reason))
        gone.update(finished)
        if gone:
            moves = self._cache.remove_rows(sorted(gone))
            self._rows.apply_moves(moves, self._cache.num_rows)
        return outcomes

    def _finish(self, row: int, reason: StopReason) -> Outcomes:
        request, number, tokens, logprobs, topk = self._rows.result(row)
        result = request.finish_sequence(number, tokens, logprobs, reason, topk)
        return [] if result is None else [(request.request_id, Succeeded(result))]


def _not_finite() -> Failed:
    return Failed(
        FailureCategory.USER,
        "the model's output is not finite: the adapter has diverged in training (try a lower "
        "learning rate)",
    )
