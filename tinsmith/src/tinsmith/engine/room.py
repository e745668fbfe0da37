"""Who gives back rows and blocks of the cache when there are none left."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping

from tinsmith.engine.active_rows import ActiveRows
from tinsmith.engine.block_pool import BlockPool
from tinsmith.engine.sampler_counts import SamplerCounts
from tinsmith.engine.waiting_line import WaitingLine
from tinsmith.scheduler.fair_share import Weights, heaviest, who_gives_way

GIVEN_AT_ONCE = 8
"""Rows that a project has before others' sequences are put back for its own no more. It gets
further ones when others finish: what is put back has to be read again."""


class Room:
    """Looks at what the active rows and those who wait hold, project by project."""

    def __init__(
        self,
        pool: BlockPool,
        rows: ActiveRows,
        waiting: WaitingLine,
        weights: Weights,
        counts: SamplerCounts,
    ) -> None:
        self._pool = pool
        self._rows = rows
        self._waiting = waiting
        self._weights = weights
        self._counts = counts

    def extend_rows(self) -> None:
        """A block for every row that needs one. Where there is none, the project that has most of
        them gives back."""
        while without := self._rows.without_room():
            block = self._pool.take(1, beyond=len(self._rows) == 1)
            if block is not None:
                self._rows.extend(without[0], block[0])
            else:
                self._give_back(heaviest(self._blocks_by_project(), self._weights))

    def make_way(self, max_rows: int) -> None:
        """A few rows for the project whose sequences are the next to be started, from those that
        have more."""
        project, held = self._waiting.next_project(), Counter(self._rows.projects())
        wanted = min(self._waiting.num_of(project), GIVEN_AT_ONCE - held[project])
        for number in range(max_rows - len(self._rows), wanted):
            giver = who_gives_way(held, project, number + 1, self._weights)
            if giver is None:
                return
            self._put_back(giver)
            held[giver] -= 1

    def take_blocks(self, project: str, count: int, *, beyond: bool) -> list[int] | None:
        """Blocks for a sequence of the project that is to be started, from those who have more than
        it will have, if there are none left."""
        while (blocks := self._pool.take(count)) is None:
            held = self._blocks_by_project()
            giver = who_gives_way(held, project, count, self._weights)
            if giver is None:
                return self._pool.take(count, beyond=beyond)
            self._give_back(giver)
        return blocks

    def _blocks_by_project(self) -> Mapping[str, int]:
        return self._rows.blocks_by_project() + self._waiting.blocks_by_project()

    def _give_back(self, project: str) -> None:
        """Blocks: first of those who only wait, then of the newest request's sequence."""
        if not self._waiting.give_up_blocks(project):
            self._put_back(project)

    def _put_back(self, project: str) -> None:
        """The newest request's sequence goes back to the queue, to be prefilled again when there is
        room."""
        (sequence,) = self._rows.remove([self._rows.newest_of(project)])
        sequence.let_go(self._pool)
        self._waiting.put_back(sequence)
        self._counts.put_back += 1
