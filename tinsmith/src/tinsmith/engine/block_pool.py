"""Which blocks of the KV cache are whose, and which of them can be used again.

A block that is full can be published under what it holds: its tokens, and all that came before
them. A later sequence that begins with the same tokens takes the block over instead of computing it
anew (automatic prefix sharing). A published block that nobody uses stays until its room is
needed; those unused for longest go first, the ends of sequences before their beginnings.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Hashable, Sequence

import numpy as np
from numpy.typing import NDArray

from tinsmith.nn.kv_cache import BLOCK

_Key = tuple[Hashable, bytes]
"""What comes before, as a namespace or the block that holds its end; and the block's tokens."""


class BlockPool:
    """Numbers blocks from 0 on, and counts the users of each."""

    def __init__(self, capacity: int) -> None:
        self.capacity = capacity
        """Blocks in use or published at most, unless one is taken beyond it."""
        self._num_users: list[int] = []
        self._free: list[int] = []
        self._block_of: dict[_Key, int] = {}
        self._key_of: dict[int, _Key] = {}
        self._unused: OrderedDict[int, None] = OrderedDict()
        """Published blocks without users, in the order in which they go."""

    @property
    def num_blocks(self) -> int:
        """Blocks that have ever been taken; their numbers are below this."""
        return len(self._num_users)

    @property
    def num_used(self) -> int:
        return len(self._num_users) - len(self._free) - len(self._unused)

    @property
    def num_unused(self) -> int:
        """Published blocks without users."""
        return len(self._unused)

    def take(self, count: int, *, beyond: bool = False) -> list[int] | None:
        """Blocks for one user, or None if there are not so many.

        Args:
            beyond: whether the capacity may be exceeded.
        """
        room = max(0, self.capacity - self.num_blocks)
        if not beyond and len(self._free) + room + len(self._unused) < count:
            return None
        return [self._take() for _ in range(count)]

    def _take(self) -> int:
        if self._free:
            block = self._free.pop()
        elif self.num_blocks < self.capacity or not self._unused:
            block = self.num_blocks
            self._num_users.append(0)
        else:
            block, _ = self._unused.popitem(last=False)
            del self._block_of[self._key_of.pop(block)]
        self._num_users[block] = 1
        return block

    def match(self, namespace: Hashable, tokens: NDArray[np.int32], at_most: int) -> list[int]:
        """The published blocks that hold the beginning of these tokens, with a user more each.

        Args:
            namespace: what keys and values depend on beside the tokens, and who may share them.
            at_most: tokens that may be taken over.
        """
        blocks: list[int] = []
        before: Hashable = namespace
        for start in range(0, at_most - BLOCK + 1, BLOCK):
            block = self._block_of.get((before, tokens[start : start + BLOCK].tobytes()))
            if block is None:
                break
            blocks.append(block)
            before = block
        self.share(blocks)
        return blocks

    def publish(
        self,
        namespace: Hashable,
        blocks: Sequence[int],
        tokens: NDArray[np.int32],
        num_published: int,
        num_full: int,
    ) -> int:
        """Let others find a sequence's blocks from number `num_published` up to `num_full`, whose
        keys and values are there, or will be before anybody reads them.

        Returns:
            How many of its blocks are published now: fewer than num_full if another sequence has
            published the same tokens.
        """
        for number in range(num_published, num_full):
            before = blocks[number - 1] if number else namespace
            key = (before, tokens[number * BLOCK : (number + 1) * BLOCK].tobytes())
            if key in self._block_of:
                return number
            self._block_of[key] = blocks[number]
            self._key_of[blocks[number]] = key
        return num_full

    def share(self, blocks: Sequence[int]) -> None:
        """One more user for each."""
        for block in blocks:
            if self._num_users[block] == 0:
                del self._unused[block]
            self._num_users[block] += 1

    def release(self, blocks: Sequence[int]) -> None:
        """One user less for each of a sequence's blocks."""
        for block in reversed(blocks):
            self._num_users[block] -= 1
            if self._num_users[block] > 0:
                continue
            if block in self._key_of:
                self._unused[block] = None
            else:
                self._free.append(block)
