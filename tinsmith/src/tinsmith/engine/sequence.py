"""One sample of a request while it is being generated."""

from __future__ import annotations

from collections.abc import Hashable

import numpy as np
from numpy.typing import NDArray

from tinsmith.engine.block_pool import BlockPool
from tinsmith.engine.sample_request import SampleRequest
from tinsmith.nn.kv_cache import BLOCK


class Sequence:
    """Its tokens, and the cache's blocks that hold their keys and values. While it is among the
    active rows its newest tokens are there."""

    def __init__(self, request: SampleRequest, number: int) -> None:
        self.request = request
        self.number = number
        """Which of the request's samples it is."""
        self.tokens: NDArray[np.int32] = request.sample.prompt.astype(np.int32, copy=False)
        """The prompt and what was generated."""
        self.logprobs: NDArray[np.float32] = np.zeros(0, dtype=np.float32)
        """Of what was generated."""
        self.topk: list[tuple[NDArray[np.int32], NDArray[np.float32]]] = []
        self.blocks: list[int] = []
        self.num_kept = 0
        """Leading tokens whose keys and values are in the blocks."""
        self.num_published = 0
        """Leading blocks that others can find."""
        self.num_found = 0
        """Leading tokens that need not be computed."""

    def start_with(self, blocks: list[int]) -> None:
        """Begin anew from these blocks, which were published by others."""
        self.blocks = blocks
        self.num_kept = self.num_found = len(blocks) * BLOCK
        self.num_published = len(blocks)

    @property
    def namespace(self) -> Hashable:
        """Keys and values depend on the adapter; and what one owner has sent must not be found out
        by another from how fast an answer comes."""
        adapter = self.request.adapter
        return self.request.owner, None if adapter is None else adapter.number

    @property
    def scores_prompt(self) -> bool:
        """Whether the prompt still has to be scored, which is its first sample's work."""
        return self.number == 0 and self.request.wants_prompt_scores

    @property
    def num_reusable(self) -> int:
        """Leading tokens whose hidden states nobody needs: all but the last at most."""
        last = len(self.tokens) - 1
        return min(last, self.request.scored_from - 1) if self.scores_prompt else last

    def publish(self, pool: BlockPool, tokens: NDArray[np.int32], num_full: int) -> None:
        """Let others find its leading `num_full` blocks.

        Args:
            tokens: all that it has by now.
        """
        self.num_published = pool.publish(
            self.namespace, self.blocks, tokens, self.num_published, num_full
        )

    def let_go(self, pool: BlockPool) -> None:
        """Have no blocks any more."""
        pool.release(self.blocks)
        self.start_with([])
