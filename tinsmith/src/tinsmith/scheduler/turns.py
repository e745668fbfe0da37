"""Whose turn is it? A pure function of what waits; no clock, no tensors, no memory of its own.

A turn is one micro-batch of training, one op without one (create, step, save, load), or one
prefill or decode step of sampling. Nobody waits longer than one turn of every other.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Backlog:
    """What waits at one engine."""

    runs: tuple[str, ...]
    """Runs with an op to execute, in any order that stays the same between calls."""
    has_samples: bool
    """Whether sequences wait for prefill or decode."""


@dataclass(frozen=True, slots=True)
class RunTurn:
    """The next micro-batch, or the next op, of this run."""

    run_id: str


@dataclass(frozen=True, slots=True)
class SampleTurn:
    """One prefill or decode step of all sequences."""


@dataclass(frozen=True, slots=True)
class Idle:
    """Nothing waits."""


Turn = RunTurn | SampleTurn | Idle


@dataclass(frozen=True, slots=True)
class LastTurns:
    """What fairness has to remember."""

    was_sample: bool = False
    run_id: str | None = None
    """The run that had a turn most recently."""


def next_turn(backlog: Backlog, last: LastTurns) -> tuple[Turn, LastTurns]:
    """Training and sampling alternate while both wait; runs go round in id order.

    Returns:
        the turn to take, and what to pass as `last` next time.
    """
    wants_sample = backlog.has_samples and (not backlog.runs or not last.was_sample)
    if wants_sample:
        return SampleTurn(), LastTurns(was_sample=True, run_id=last.run_id)
    if not backlog.runs:
        return Idle(), last
    ordered = sorted(backlog.runs)
    after_last = [run for run in ordered if last.run_id is None or run > last.run_id]
    chosen = after_last[0] if after_last else ordered[0]
    return RunTurn(chosen), LastTurns(was_sample=False, run_id=chosen)
