"""What an engine tells of its work, for whoever watches the server: numbers, and no names but those
of projects."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

WAIT_TURNS_BOUNDS = (0, 1, 2, 3, 4, 6, 8, 12, 16, 32, 64, 128, 256, 512, 1024)
WAIT_S_BOUNDS = (0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0, 30.0, 100.0, 300.0, 1000.0)
"""Upper bounds of what is counted together; the last count is of what lies beyond."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ProjectReport:
    """Counts since the project's work was first seen, or seen again after a long while."""

    ops_waiting: int
    """Ops of runs that have not been executed."""
    requests_waiting: int
    """Requests for samples of which some have not been started."""
    turns: int
    tokens: int
    """That went through the model for it, in training and sampling; shared ones count once."""
    wait_turns: Sequence[int]
    """Ops and requests by the turns of other projects between their arrival and their first turn,
    the one included in which they came."""
    wait_turns_sum: int
    wait_s: Sequence[int]
    """The same by seconds."""
    wait_s_sum: float


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineReport:
    """Counts since the engine's start, and how things stand now."""

    prompt_tokens: int = 0
    """Of all sequences that were started."""
    cached_prompt_tokens: int = 0
    """Those of them that were in the cache."""
    generated_tokens: int = 0
    decode_steps: int = 0
    put_back: int = 0
    """Sequences that had to make room for others."""
    training_tokens: int = 0
    """Of batches that added to a gradient."""
    optim_steps: int = 0
    requests_waiting: int = 0
    sequences_active: int = 0
    blocks_used: int = 0
    """Of the KV cache, by sequences."""
    blocks_reusable: int = 0
    """Those that nobody uses and that the next prompts may begin with."""
    blocks_limit: int = 0
    block_bytes: int = 0
    token_operations: int = 0
    """Of one token's way forward through the model."""
    device_operations_per_s: float = 0.0
    """That the device can do, as measured at start."""
    resident_bytes: int = 0
    """Host memory of the engine's process."""
    device_bytes: int = 0
    """Memory that it holds of a device with its own."""
    runs_restored: int = 0
    runs_inexact: int = 0
    """Those of them that came back with other bits."""
    replay_s: float = 0.0
    """The device's time that it took."""
    snapshots_written: int = 0
    unsaved_s: float = 0.0
    """The most engine time of any run that a restart would repeat."""
    ops_waiting: Mapping[str, int] = field(default_factory=dict)
    """Ops of runs that have not been executed, by kind."""
    projects: Mapping[str, ProjectReport] = field(default_factory=dict[str, ProjectReport])
    """By name; those that have work now or had lately."""

    @classmethod
    def read(cls, told: Mapping[str, Any]) -> EngineReport:
        """From what `asdict` made of one, and JSON of that."""
        projects = {name: ProjectReport(**one) for name, one in told["projects"].items()}
        return cls(**{**told, "projects": projects})


@dataclass(frozen=True, slots=True)
class EngineState:
    """An engine as the front sees it."""

    is_ready: bool
    report: EngineReport | None = None
    """Its newest; None before its first."""
    num_restarts: int = 0
    """How often its process ended by itself and was started again."""
