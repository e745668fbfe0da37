"""What an engine tells of its work: numbers without names, for whoever watches the server."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field


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
    ops_waiting: Mapping[str, int] = field(default_factory=dict)
    """Ops of runs that have not been executed, by kind."""


@dataclass(frozen=True, slots=True)
class EngineState:
    """An engine as the front sees it."""

    is_ready: bool
    report: EngineReport | None = None
    """Its newest; None before its first."""
