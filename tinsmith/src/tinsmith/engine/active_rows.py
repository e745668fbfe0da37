"""The sequences being decoded, as columns of numbers.

Columns rather than objects, because at small model sizes a decode step is over before Python has
walked through a few hundred objects.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from collections.abc import Sequence as Several
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from tinsmith.domain.outcomes import StopReason, TopK
from tinsmith.engine.adapter import FrozenAdapter
from tinsmith.engine.next_tokens import Chosen, SamplingSettings
from tinsmith.engine.sample_request import SampleRequest
from tinsmith.engine.sequence import Sequence
from tinsmith.nn.context import Segment
from tinsmith.nn.kv_cache import BLOCK
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
    settings: SamplingSettings
    """By token."""


class ActiveRows:
    """See the module's docstring."""

    _COLUMNS = (
        "_settings",
        "_num_prompt",
        "_num_tokens",
        "_max_new",
        "_stop_ids",
        "_tokens",
        "_logprobs",
        "_tables",
    )

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._sequences: list[Sequence] = []
        self._settings = np.zeros(16, dtype=SamplingSettings.DTYPE)
        self._num_prompt = np.zeros(16, dtype=np.int64)
        self._num_tokens = np.zeros(16, dtype=np.int64)
        self._max_new = np.zeros(16, dtype=np.int64)
        self._stop_ids = np.full((16, 4), _NO_TOKEN, dtype=np.int64)
        self._tokens = np.zeros((16, 64), dtype=np.int32)
        self._logprobs = np.zeros((16, 64), dtype=np.float32)
        self._tables = np.zeros((16, 8), dtype=np.int32)
        self._order: StepOrder | None = None
        self._projects: Mapping[str, int] | None = None

    def __len__(self) -> int:
        return len(self._sequences)

    def sequence(self, row: int) -> Sequence:
        """Its tokens and logprobs are as old as its last `add`."""
        return self._sequences[row]

    def owner(self, row: int) -> SampleRequest:
        return self._sequences[row].request

    def add(self, sequence: Sequence) -> None:
        """A new last row."""
        row, request = len(self), sequence.request
        self._sequences.append(sequence)
        self._order = self._projects = None
        while row >= len(self._settings):
            for name in self._COLUMNS:
                column = getattr(self, name)
                setattr(self, name, np.concatenate([column, np.zeros_like(column)]))
        num_prompt, num_tokens = len(request.sample.prompt), len(sequence.tokens)
        self._stop_ids = _at_least(self._stop_ids, len(request.stop_ids), _NO_TOKEN)
        self._tokens = _at_least(self._tokens, num_tokens + 1, 0)
        self._logprobs = _at_least(self._logprobs, num_tokens - num_prompt + 1, 0)
        self._tables = _at_least(self._tables, len(sequence.blocks), 0)
        params = request.sample.params
        self._settings[row] = (
            derive_seed(params.seed, sequence.number),
            params.temperature,
            params.top_k,
            params.top_p,
            request.sample.topk_sample_logprobs,
        )
        self._num_prompt[row], self._num_tokens[row] = num_prompt, num_tokens
        self._max_new[row] = request.max_new
        self._stop_ids[row] = _NO_TOKEN
        self._stop_ids[row, : len(request.stop_ids)] = sorted(request.stop_ids)
        self._tokens[row, :num_tokens] = sequence.tokens
        self._logprobs[row, : num_tokens - num_prompt] = sequence.logprobs
        self._tables[row] = 0
        self._tables[row, : len(sequence.blocks)] = sequence.blocks

    def order(self) -> StepOrder:
        """The packing of the next step; worked out anew only when rows have come or gone."""
        if self._order is None:
            row_of_token, segments = by_adapter([one.request.adapter for one in self._sequences])
            settings = SamplingSettings(self._settings[row_of_token], self._device)
            self._order = StepOrder(segments, row_of_token, settings)
        return self._order

    def projects(self) -> Mapping[str, int]:
        """How many rows are whose; counted anew only when rows have come or gone."""
        if self._projects is None:
            self._projects = Counter(one.request.owner for one in self._sequences)
        return self._projects

    def blocks_by_project(self) -> Counter[str]:
        """Blocks of the cache; one that sequences share counts for each of them."""
        held: Counter[str] = Counter()
        for sequence in self._sequences:
            held[sequence.request.owner] += len(sequence.blocks)
        return held

    def settings(self, rows: NDArray[np.int64]) -> NDArray[np.void]:
        """Their sampling settings, as records of SamplingSettings.DTYPE."""
        return self._settings[rows]

    def num_generated(self, rows: NDArray[np.int64]) -> NDArray[np.int64]:
        return self._num_tokens[rows] - self._num_prompt[rows]

    def without_room(self) -> list[int]:
        """The rows that need another block for their newest token."""
        last = self._num_tokens[: len(self)] - 1
        starting = np.flatnonzero(last % BLOCK == 0).tolist()
        return [row for row in starting if len(self._sequences[row].blocks) * BLOCK <= last[row]]

    def extend(self, row: int, block: int) -> None:
        """Give a row one more block."""
        blocks = self._sequences[row].blocks
        self._tables = _at_least(self._tables, len(blocks) + 1, 0)
        self._tables[row, len(blocks)] = block
        blocks.append(block)

    def newest_tokens(
        self, rows: NDArray[np.int64]
    ) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int32]]:
        """What the next step feeds to the model for these rows: tokens and their positions, int64,
        and the rows' tables, as wide as the longest needs."""
        last = self._num_tokens[rows] - 1
        width = int(last.max()) // BLOCK + 1
        return self._tokens[rows, last].astype(np.int64), last, self._tables[rows, :width]

    def filled_up(self, rows: NDArray[np.int64]) -> list[int]:
        """Those of these rows whose newest token is the last in its block."""
        return rows[self._num_tokens[rows] % BLOCK == 0].tolist()

    def tokens(self, row: int) -> NDArray[np.int32]:
        """The prompt and what was generated; a view."""
        return self._tokens[row, : self._num_tokens[row]]

    def record(self, rows: NDArray[np.int64], chosen: Chosen) -> dict[int, StopReason]:
        """Append a token to each of these rows; returns the rows that are thereby finished."""
        place = self._num_tokens[rows]
        number = place - self._num_prompt[rows]
        self._tokens = _at_least(self._tokens, int(place.max()) + 1, 0)
        self._logprobs = _at_least(self._logprobs, int(number.max()) + 1, 0)
        self._tokens[rows, place] = chosen.tokens
        self._logprobs[rows, number] = chosen.logprobs
        self._num_tokens[rows] += 1
        for i, top in chosen.topk.items():
            self._sequences[rows[i]].topk.append(top)
        is_stopped = (self._stop_ids[rows] == chosen.tokens[:, None]).any(axis=1)
        is_full = number + 1 >= self._max_new[rows]
        finished = dict.fromkeys(rows[is_full].tolist(), StopReason.LENGTH)
        finished.update(dict.fromkeys(rows[is_stopped].tolist(), StopReason.STOP))
        for row in rows.tolist():
            request = self.owner(row)
            if request.sample.params.stop_strings and request.completes_stop_string(
                self.tokens(row)[self._num_prompt[row] :]
            ):
                finished[row] = StopReason.STOP
        return finished

    def told(self, rows: NDArray[np.int64], chosen: Chosen) -> list[Told]:
        """What was just recorded for these rows, as far as somebody wants to hear of it."""
        told: list[Told] = []
        for i, row in enumerate(rows.tolist()):
            sequence = self._sequences[row]
            stream = sequence.request.sample.stream
            if stream is not None and np.isfinite(chosen.logprobs[i]):
                place = int(self._num_tokens[row] - self._num_prompt[row]) - 1
                ids, logprobs = chosen.topk.get(i, ((), ()))
                top = [(int(id_), float(p)) for id_, p in zip(ids, logprobs, strict=True)]
                token, logprob = int(chosen.tokens[i]), float(chosen.logprobs[i])
                told.append((stream, sequence.number, place, token, logprob, top))
        return told

    def result(self, row: int) -> tuple[NDArray[np.int32], NDArray[np.float32], TopK | None]:
        """Copies of what was generated."""
        topk = None
        if top := self._sequences[row].topk:
            ids, logprobs = zip(*top, strict=True)
            topk = TopK(np.stack(ids), np.stack(logprobs))
        tokens = self.tokens(row)[self._num_prompt[row] :].copy()
        return tokens, self._logprobs[row, : len(tokens)].copy(), topk

    def rows_of(self, request: SampleRequest) -> list[int]:
        return [row for row, one in enumerate(self._sequences) if one.request is request]

    def newest_of(self, project: str) -> int:
        """The row of its request that came last."""
        rows = (row for row in range(len(self)) if self.owner(row).owner == project)
        return max(rows, key=lambda row: self.owner(row).arrival)

    def remove(self, rows: Several[int]) -> list[Sequence]:
        """Take rows out; returns their sequences, with all tokens that they have. The last rows
        fill the holes."""
        gone = []
        for row in rows:
            sequence = self._sequences[row]
            sequence.tokens = self.tokens(row).copy()
            num_generated = len(sequence.tokens) - self._num_prompt[row]
            sequence.logprobs = self._logprobs[row, :num_generated].copy()
            gone.append(sequence)
        num_left = len(self) - len(gone)
        holes = sorted(row for row in rows if row < num_left)
        movers = sorted(set(range(num_left, len(self))) - set(rows))
        for source, target in zip(movers, holes, strict=True):
            self._sequences[target] = self._sequences[source]
        if movers:
            for name in self._COLUMNS:
                column = getattr(self, name)
                column[holes] = column[movers]
        del self._sequences[num_left:]
        self._order = self._projects = None
        return gone


def by_adapter(
    adapters: Several[FrozenAdapter | None],
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


def _at_least(column: NDArray, width: int, filler: int) -> NDArray:
    """The column itself, or a wider copy."""
    if width <= column.shape[1]:
        return column
    wide = np.full((len(column), max(width, 2 * column.shape[1])), filler, dtype=column.dtype)
    wide[:, : column.shape[1]] = column
    return wide
