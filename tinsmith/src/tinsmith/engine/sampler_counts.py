"""How much a sampler has done."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(slots=True)
class SamplerCounts:
    """What was done since the start."""

    prompt_tokens: int = 0
    """Of all sequences that were started."""
    cached_prompt_tokens: int = 0
    """Those of them that were in the cache."""
    generated_tokens: int = 0
    decode_steps: int = 0
    put_back: int = 0
    """Sequences that had to make room for others, and were prefilled again later."""
