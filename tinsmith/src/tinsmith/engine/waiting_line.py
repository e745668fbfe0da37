"""The sequences that wait for a turn, and what of their prompts goes into the next one."""

from __future__ import annotations

from collections import deque
from collections.abc import Collection, Iterable

from tinsmith.engine.block_pool import BlockPool
from tinsmith.engine.prefill import Chunk
from tinsmith.engine.sample_request import SampleRequest
from tinsmith.engine.sequence import Sequence
from tinsmith.nn.kv_cache import BLOCK


class WaitingLine:
    """In order of arrival: nobody overtakes one that does not fit yet."""

    def __init__(self, pool: BlockPool, prefill_tokens: int) -> None:
        """`prefill_tokens` is the most in one turn."""
        self._pool = pool
        self._prefill_tokens = prefill_tokens
        self._sequences: deque[Sequence] = deque()

    def __len__(self) -> int:
        return len(self._sequences)

    def requests(self) -> list[SampleRequest]:
        """In order, each once."""
        return list(dict.fromkeys(sequence.request for sequence in self._sequences))

    def add(self, sequences: Iterable[Sequence]) -> None:
        self._sequences.extend(sequences)

    def put_back(self, sequence: Sequence) -> None:
        """To the head: it was on already, and has let go of its blocks."""
        self._sequences.appendleft(sequence)

    def drop(self, requests: Collection[SampleRequest]) -> None:
        """Take what is left of these out."""
        for sequence in self._sequences:
            if sequence.request in requests:
                sequence.let_go(self._pool)
        self._sequences = deque(one for one in self._sequences if one.request not in requests)

    def give_up_blocks(self) -> bool:
        """Let the last that holds any have none; whether there was one."""
        for sequence in reversed(self._sequences):
            if sequence.blocks:
                sequence.let_go(self._pool)
                return True
        return False

    def next_chunks(self, room: int, *, is_alone: bool) -> list[Chunk]:
        """What goes into this turn. It has left the line, but for the rest of a prompt that is
        longer than the budget of tokens.

        Args:
            room: sequences that can be started.
            is_alone: whether nobody is being generated: the first then goes on however many blocks
                it needs.
        """
        chunks: list[Chunk] = []
        budget = self._prefill_tokens
        while self._sequences and budget > 0 and room > 0:
            chunk = self._chunk(self._sequences[0], budget, is_alone and not chunks)
            if chunk is None:
                break
            chunks.append(chunk)
            if not chunk.is_last:
                break
            self._sequences.popleft()
            budget, room = budget - len(chunk), room - 1
            while room > 0 and self._sequences and self._follows(self._sequences[0], chunk):
                chunk.followers.append(self._sequences.popleft())
                room -= 1
        return chunks

    def _chunk(self, sequence: Sequence, budget: int, beyond: bool) -> Chunk | None:
        """The sequence's next tokens, with blocks for them; None where no blocks are left."""
        if not sequence.blocks:
            sequence.start_with(
                self._pool.match(sequence.namespace, sequence.tokens, sequence.num_reusable)
            )
        stop = min(len(sequence.tokens), sequence.num_kept + budget)
        new = self._pool.take(-(-stop // BLOCK) - len(sequence.blocks), beyond=beyond)
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
