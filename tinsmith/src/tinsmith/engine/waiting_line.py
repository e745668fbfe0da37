"""The sequences that wait for a turn, and what of their prompts goes into the next one."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Collection, Iterable, Iterator, Mapping
from typing import Protocol

from tinsmith.engine.block_pool import BlockPool
from tinsmith.engine.prefill import Chunk
from tinsmith.engine.sample_request import SampleRequest
from tinsmith.engine.sequence import Sequence
from tinsmith.nn.kv_cache import BLOCK
from tinsmith.scheduler.fair_share import Shares, Weights, next_of


class TakeBlocks(Protocol):
    def __call__(self, project: str, count: int, *, beyond: bool) -> list[int] | None:
        """Blocks for a sequence of the project, or None; see BlockPool.take."""
        ...


class WaitingLine:
    """A line for each project, in order of arrival, and the projects as scheduler.fair_share says:
    by what was read and generated for them. Nobody overtakes one that does not fit yet."""

    def __init__(self, pool: BlockPool, prefill_tokens: int, weights: Weights) -> None:
        """
        Args:
            prefill_tokens: the most in one turn.
            weights: of the projects; looked at whenever there is a choice.
        """
        self._pool = pool
        self._prefill_tokens = prefill_tokens
        self._weights = weights
        self._lines: dict[str, deque[Sequence]] = {}
        """By project; none of them empty."""
        self._shares = Shares()

    def __len__(self) -> int:
        return sum(map(len, self._lines.values()))

    def __iter__(self) -> Iterator[Sequence]:
        for line in self._lines.values():
            yield from line

    @property
    def projects(self) -> Collection[str]:
        return self._lines.keys()

    def num_of(self, project: str) -> int:
        """Its sequences."""
        return len(self._lines.get(project, ()))

    def requests(self) -> list[SampleRequest]:
        """Each once, a project's in order."""
        return list(dict.fromkeys(sequence.request for sequence in self))

    def add(self, sequences: Iterable[Sequence]) -> None:
        for sequence in sequences:
            self._lines.setdefault(sequence.request.owner, deque()).append(sequence)

    def put_back(self, sequence: Sequence) -> None:
        """To the head of its project's: it was on already, and has let go of its blocks."""
        self._lines.setdefault(sequence.request.owner, deque()).appendleft(sequence)

    def drop(self, requests: Collection[SampleRequest]) -> None:
        """Take what is left of these out."""
        for sequence in self:
            if sequence.request in requests:
                sequence.let_go(self._pool)
        for project in {request.owner for request in requests} & self._lines.keys():
            left = (one for one in self._lines[project] if one.request not in requests)
            self._keep(project, deque(left))

    def blocks_by_project(self) -> Counter[str]:
        """Of prompts that have been read in part."""
        held: Counter[str] = Counter()
        for sequence in self:
            held[sequence.request.owner] += len(sequence.blocks)
        return held

    def give_up_blocks(self, project: str) -> bool:
        """Let the project's last that holds any have none; whether there was one."""
        for sequence in reversed(self._lines.get(project, ())):
            if sequence.blocks:
                sequence.let_go(self._pool)
                return True
        return False

    def charge(self, tokens: Mapping[str, int]) -> None:
        """Take note of what was read and generated, by project. Nobody is blamed for what they had
        while nobody waited."""
        if not self._lines:
            self._shares = Shares()
            return
        for project, count in tokens.items():
            self._shares = self._shares.charge(project, count)

    def next_project(self) -> str:
        """Whose sequence is the next to be started."""
        return self._next()[0]

    def _next(self) -> tuple[str, Shares]:
        return next_of(self._shares, sorted(self._lines), self._weights)

    def next_chunks(self, room: int, take_blocks: TakeBlocks, *, is_alone: bool) -> list[Chunk]:
        """What goes into this turn. It has left the line, but for the rest of a prompt that is
        longer than the budget of tokens.

        Args:
            room: sequences that can be started.
            take_blocks: where their blocks come from; others' sequences may be put back for them.
            is_alone: whether nobody is being generated: the first then goes on however many blocks
                it needs.
        """
        chunks: list[Chunk] = []
        budget = self._prefill_tokens
        while self._lines and budget > 0 and room > 0:
            project, shares = self._next()
            line = self._lines[project]
            chunk = self._chunk(line[0], budget, take_blocks, is_alone and not chunks)
            if chunk is None:
                break
            chunks.append(chunk)
            self._shares = shares
            self.charge({project: len(chunk)})
            if not chunk.is_last:
                break
            line.popleft()
            budget, room = budget - len(chunk), room - 1
            while room > 0 and line and self._follows(line[0], chunk):
                chunk.followers.append(line.popleft())
                room -= 1
            self._keep(project, line)
        return chunks

    def _keep(self, project: str, line: deque[Sequence]) -> None:
        if line:
            self._lines[project] = line
        else:
            del self._lines[project]

    def _chunk(
        self, sequence: Sequence, budget: int, take_blocks: TakeBlocks, beyond: bool
    ) -> Chunk | None:
        """The sequence's next tokens, with blocks for them; None where no blocks are left."""
        if not sequence.blocks:
            sequence.start_with(
                self._pool.match(sequence.namespace, sequence.tokens, sequence.num_reusable)
            )
        stop = min(len(sequence.tokens), sequence.num_kept + budget)
        count = -(-stop // BLOCK) - len(sequence.blocks)
        new = take_blocks(sequence.request.owner, count, beyond=beyond)
        if new is None:
            sequence.let_go(self._pool)  # what is published may still be there next time
            return None
        sequence.blocks += new
        sequence.publish(self._pool, sequence.tokens, stop // BLOCK)
        return Chunk(sequence, sequence.num_kept, stop)

    def _follows(self, sequence: Sequence, chunk: Chunk) -> bool:
        """Whether a further sample of the chunk's prompt can start with it; it then has blocks."""
        leader = chunk.sequence
        if sequence.request is not leader.request or sequence.blocks:
            return False
        if not chunk.stop == len(sequence.tokens) == len(leader.request.sample.prompt):
            return False
        own = self._pool.take(1 if chunk.stop % BLOCK else 0)
        if own is None:
            return False
        shared = leader.blocks[: chunk.stop // BLOCK]
        self._pool.share(shared)
        sequence.blocks, sequence.num_published = shared + own, leader.num_published
        sequence.num_found = chunk.stop
        return True
