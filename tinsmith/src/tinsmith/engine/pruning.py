"""Which snapshots of a run stay, and how far back its requests are kept. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from tinsmith.config import Recovery


@dataclass(frozen=True, slots=True)
class Kept:
    """A snapshot."""

    seq_id: int
    size_bytes: int
    engine_s: float
    """The engine's time that the run had had by then."""
    is_load: bool = False
    """Whether a load is replayed with it."""


@dataclass(frozen=True, slots=True)
class Plan:
    drop: tuple[int, ...]
    """seq_ids of snapshots that go."""
    payloads_up_to: int
    """Requests up to this seq_id go as well; -1: none do."""


_CREATION = Kept(0, 0, 0.0)
"""A run can be made from its seed."""


def prune(snapshots: Sequence[Kept], payloads: Mapping[int, int], settings: Recovery) -> Plan:
    """What to drop of a run's history.

    The newest snapshots stay. Of older ones, those go without which a replay from the one before
    is still short enough; then, from the oldest on, whatever exceeds the budget, together with the
    requests before it.

    Args:
        snapshots: oldest first; at least one.
        payloads: seq_id -> bytes, of the requests that are kept.
    """
    newest = snapshots[-settings.keep_snapshots :]
    older = _thinned(snapshots[: -len(newest)], newest[0], settings.max_replay_s)
    creation = [_CREATION] if 0 in payloads and snapshots[0].seq_id != 0 else []
    floor, left = newest[0].seq_id, settings.history_bytes
    for one in [*reversed(older), *creation]:
        between = sum(size for seq_id, size in payloads.items() if one.seq_id < seq_id <= floor)
        left -= one.size_bytes + between
        if left < 0:
            break
        floor = one.seq_id
    staying = {one.seq_id for one in (*older, *newest) if one.seq_id >= floor}
    dropped = tuple(one.seq_id for one in snapshots if one.seq_id not in staying)
    # A run that is whole from its creation on needs that request as well.
    is_spent = floor > 0 and any(seq_id <= floor for seq_id in payloads)
    return Plan(dropped, floor if is_spent else -1)


def _thinned(older: Sequence[Kept], newer: Kept, max_replay_s: float) -> list[Kept]:
    kept: list[Kept] = []
    for one, after in zip(older, [*older, newer][1:], strict=True):
        if not kept or one.is_load or after.engine_s - kept[-1].engine_s > max_replay_s:
            kept.append(one)
    return kept
