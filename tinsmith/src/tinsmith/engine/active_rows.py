"""The sequences being generated, as columns of numbers.

Row i here is row i of the KV cache. Columns rather than objects, because at small model sizes a
decode step is over before Python has walked through a few hundred objects.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from tinsmith.domain.outcomes import StopReason, TopK
from tinsmith.engine.adapter import FrozenAdapter
from tinsmith.engine.next_tokens import Chosen, SamplingSettings
from tinsmith.engine.sample_request import SampleRequest
from tinsmith.nn.context import Segment
from tinsmith.nn.sampling import derive_seed

_NO_TOKEN = -1

Told = tuple[str, int, int, int, float, list[tuple[int, float]]]
"""A new token: stream, which of the request's samples, its place there, token, logprob, and the
likeliest at this place with theirs."""


@dataclass(frozen=True, slots=True, eq=False)
class StepOrder:
    """In which order the rows' tokens are packed: all of an adapter's side by side."""

    segments: tuple[Segment, ...]
    row_of_token: NDArray[np.int64]
    is_row_order: bool
    """Token i belongs to row i."""
    row_of_token_tensor: Tensor
    token_of_row_tensor: Tensor
    settings: SamplingSettings
    """By token."""


class ActiveRows:
    """See the module's docstring."""

    _COLUMNS = ("_settings", "_num_generated", "_max_new", "_stop_ids", "_tokens", "_logprobs")

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._owners: list[tuple[SampleRequest, int]] = []
        self._settings = np.zeros(16, dtype=SamplingSettings.DTYPE)
        self._num_generated = np.zeros(16, dtype=np.int64)
        self._max_new = np.zeros(16, dtype=np.int64)
        self._stop_ids = np.full((16, 4), _NO_TOKEN, dtype=np.int64)
        self._tokens = np.zeros((16, 64), dtype=np.int32)
        self._logprobs = np.zeros((16, 64), dtype=np.float32)
        self._topk: list[list[tuple[NDArray[np.int32], NDArray[np.float32]]]] = []
        self._order: StepOrder | None = None

    def __len__(self) -> int:
        return len(self._owners)

    def owner(self, row: int) -> SampleRequest:
        return self._owners[row][0]

    @property
    def longest(self) -> int:
        """Tokens that any of the sequences may come to."""
        return max((request.longest for request, _ in self._owners), default=0)

    def add(self, request: SampleRequest, number: int) -> None:
        """A new last row for sample `number` of the request, with nothing generated yet."""
        row = len(self)
        self._owners.append((request, number))
        self._topk.append([])
        self._order = None
        while row >= len(self._settings):
            for name in self._COLUMNS:
                column = getattr(self, name)
                setattr(self, name, np.concatenate([column, np.zeros_like(column)]))
        if len(request.stop_ids) > self._stop_ids.shape[1]:
            self._stop_ids = _widened(self._stop_ids, len(request.stop_ids), _NO_TOKEN)
        params = request.sample.params
        self._settings[row] = (
            derive_seed(params.seed, number),
            params.temperature,
            params.top_k,
            params.top_p,
            request.sample.topk_sample_logprobs,
        )
        self._num_generated[row] = 0
        self._max_new[row] = request.max_new
        self._stop_ids[row] = _NO_TOKEN
        self._stop_ids[row, : len(request.stop_ids)] = sorted(request.stop_ids)

    def order(self) -> StepOrder:
        """The packing of the next step; worked out anew only when rows have come or gone."""
        if self._order is None:
            adapters = [request.adapter for request, _ in self._owners]
            row_of_token, segments = by_adapter(adapters)
            token_of_row = np.argsort(row_of_token)
            self._order = StepOrder(
                segments,
                row_of_token,
                bool((row_of_token == np.arange(len(self))).all()),
                torch.from_numpy(row_of_token).to(self._device),
                torch.from_numpy(token_of_row).to(self._device),
                SamplingSettings(self._settings[row_of_token], self._device),
            )
        return self._order

    def settings(self, rows: NDArray[np.int64]) -> NDArray[np.void]:
        """Their sampling settings, as records of SamplingSettings.DTYPE."""
        return self._settings[rows]

    def num_generated(self, rows: NDArray[np.int64]) -> NDArray[np.int64]:
        return self._num_generated[rows]

    def last_tokens(self) -> NDArray[np.int64]:
        """The newest token of each row, which the next step feeds to the model."""
        rows = np.arange(len(self))
        return self._tokens[rows, self._num_generated[rows] - 1].astype(np.int64)

    def record(self, rows: NDArray[np.int64], chosen: Chosen) -> dict[int, StopReason]:
        """Append a token to each of these rows; returns the rows that are thereby finished."""
        place = self._num_generated[rows]
        if place.max() >= self._tokens.shape[1]:
            self._tokens = _widened(self._tokens, int(place.max()) + 1, 0)
            self._logprobs = _widened(self._logprobs, int(place.max()) + 1, 0)
        self._tokens[rows, place] = chosen.tokens
        self._logprobs[rows, place] = chosen.logprobs
        self._num_generated[rows] += 1
        for i, top in chosen.topk.items():
            self._topk[rows[i]].append(top)
        is_stopped = (self._stop_ids[rows] == chosen.tokens[:, None]).any(axis=1)
        is_full = place + 1 >= self._max_new[rows]
        finished = dict.fromkeys(rows[is_full].tolist(), StopReason.LENGTH)
        finished.update(dict.fromkeys(rows[is_stopped].tolist(), StopReason.STOP))
        for row in rows.tolist():
            request = self._owners[row][0]
            if request.sample.params.stop_strings and request.completes_stop_string(
                self._tokens[row, : self._num_generated[row]]
            ):
                finished[row] = StopReason.STOP
        return finished

    def told(self, rows: NDArray[np.int64], chosen: Chosen) -> list[Told]:
        """What was just recorded for these rows, as far as somebody wants to hear of it."""
        told: list[Told] = []
        for i, row in enumerate(rows.tolist()):
            request, number = self._owners[row]
            if request.sample.stream is not None and np.isfinite(chosen.logprobs[i]):
                place = int(self._num_generated[row]) - 1
                ids, logprobs = chosen.topk.get(i, ((), ()))
                top = [(int(id_), float(p)) for id_, p in zip(ids, logprobs, strict=True)]
                token, logprob = int(chosen.tokens[i]), float(chosen.logprobs[i])
                told.append((request.sample.stream, number, place, token, logprob, top))
        return told

    def result(
        self, row: int
    ) -> tuple[SampleRequest, int, NDArray[np.int32], NDArray[np.float32], TopK | None]:
        """The row's request, which of its samples it is, and copies of what was generated."""
        request, number = self._owners[row]
        count = self._num_generated[row]
        topk = None
        if self._topk[row]:
            ids, logprobs = zip(*self._topk[row], strict=True)
            topk = TopK(np.stack(ids), np.stack(logprobs))
        tokens, logprobs = self._tokens[row, :count].copy(), self._logprobs[row, :count].copy()
        return request, number, tokens, logprobs, topk

    def rows_of(self, request: SampleRequest) -> list[int]:
        return [row for row, (owner, _) in enumerate(self._owners) if owner is request]

    def apply_moves(self, moves: Sequence[tuple[int, int]], num_rows: int) -> None:
        """Do what the cache did when it removed rows."""
        for source, target in moves:
            self._owners[target] = self._owners[source]
            self._topk[target] = self._topk[source]
        if moves:
            sources, targets = (np.array(side) for side in zip(*moves, strict=True))
            for name in self._COLUMNS:
                column = getattr(self, name)
                column[targets] = column[sources]
        del self._owners[num_rows:], self._topk[num_rows:]
        self._order = None


def by_adapter(
    adapters: Sequence[FrozenAdapter | None],
) -> tuple[NDArray[np.int64], tuple[Segment, ...]]:
    """Bring sequences of one adapter together.

    Returns:
        The order as indices into `adapters`, and the segments of the sequences so ordered. The
        base model itself (None) needs no segment.
    """
    numbers: dict[int, int] = {}
    group = [numbers.setdefault(id(adapter), len(numbers)) for adapter in adapters]
    order = np.argsort(np.array(group, dtype=np.int64), kind="stable")
    segments, start = [], 0
    for number in range(len(numbers)):
        stop = start + group.count(number)
        adapter = adapters[order[start]]
        if adapter is not None:
            segments.append(adapter.segment(start, stop))
        start = stop
    return order, tuple(segments)


def _widened(column: NDArray, at_least: int, filler: int) -> NDArray:
    width = max(at_least, 2 * column.shape[1])
    wide = np.full((len(column), width), filler, dtype=column.dtype)
    wide[:, : column.shape[1]] = column
    return wide
