"""What one forward pass needs to know beyond its tokens.

One ForwardContext per loaded model is shared by its attention modules and adapter layers, so the
model's own code (transformers) need not carry our arguments. The caller fills it for one pass
and empties it again; passes of one model never overlap.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from torch import Tensor

from tinsmith.nn.kv_cache import KVCache
from tinsmith.nn.sequences import PackedSequences

Pair = tuple[Tensor, Tensor]
"""One layer's A [R, I] and B [O, R]."""


@dataclass(frozen=True, slots=True, eq=False)
class Segment:
    """An adapter and the packed tokens [start, stop) that it applies to."""

    pairs: Sequence[Pair | None]
    """By AdapterLinear.index; None where the adapter leaves the layer alone."""
    scale: float
    """alpha / rank."""
    start: int
    stop: int


@dataclass(frozen=True, slots=True, eq=False)
class Prefill:
    """Whole sequences, starting at position 0; keys and values are kept if there is a cache."""

    sequences: PackedSequences
    cache: KVCache | None = None
    first_row: int = 0
    """Sequence i goes to row first_row + i of the cache; with a cache nothing may be shared."""


@dataclass(frozen=True, slots=True, eq=False)
class Decode:
    """One token for every row of the cache."""

    cache: KVCache
    row_of_token: Tensor | None = None
    """int64 [rows]; None where token i belongs to row i."""
    token_of_row: Tensor | None = None
    """The inverse of row_of_token."""


class ForwardContext:
    """See the module's docstring."""

    def __init__(self) -> None:
        self.segments: tuple[Segment, ...] = ()
        self.attend: Prefill | Decode | None = None
        self.checkpointing = False

    @contextmanager
    def running(
        self,
        segments: tuple[Segment, ...],
        attend: Prefill | Decode | None,
        checkpointing: bool = False,
    ) -> Iterator[None]:
        """Set the pass's state inside the block and put back what was there before."""
        before = self.segments, self.attend, self.checkpointing
        self.segments, self.attend, self.checkpointing = segments, attend, checkpointing
        try:
            yield
        finally:
            self.segments, self.attend, self.checkpointing = before
