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

from tinsmith.nn.cached_sequences import Decode, Extend
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
    """Whole sequences, starting at position 0, of which nothing is kept."""

    sequences: PackedSequences


Attend = Prefill | Extend | Decode
"""How a pass's tokens see each other and what was kept of earlier passes."""


class ForwardContext:
    """See the module's docstring."""

    def __init__(self) -> None:
        self.segments: tuple[Segment, ...] = ()
        self.attend: Attend | None = None
        self.checkpointing = False

    @contextmanager
    def running(
        self,
        segments: tuple[Segment, ...],
        attend: Attend | None,
        checkpointing: bool = False,
    ) -> Iterator[None]:
        """Set the pass's state inside the block and put back what was there before."""
        before = self.segments, self.attend, self.checkpointing
        self.segments, self.attend, self.checkpointing = segments, attend, checkpointing
        try:
            yield
        finally:
            self.segments, self.attend, self.checkpointing = before
