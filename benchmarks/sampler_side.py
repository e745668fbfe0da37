"""Our sampler in a process of its own, without ledger and HTTP; a step is all the mails.

Settings: `prompts`, a JSON file of lists of ids, and `new_tokens` of each.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from our_engine import greedy, make_sampler, sampled
from reading import read_rate
from sides import Spec
from tinsmith.engine.base_model import BaseModel

WARM_UP_PROMPTS, WARM_UP_TOKENS = 4, 4


def run(spec: Spec, turns: Iterator[None], tell: Callable[[dict[str, Any]], None]) -> None:
    base = BaseModel.load(spec.directory, spec.device, getattr(torch, spec.dtype))
    prompts = json.loads(Path(spec.settings["prompts"]).read_text())
    samples = [greedy(prompt, spec.settings["new_tokens"]) for prompt in prompts]
    warm_up = [greedy(prompt, WARM_UP_TOKENS) for prompt in prompts[:WARM_UP_PROMPTS]]
    sampled(make_sampler(base), warm_up)
    for _ in turns:
        sampler = make_sampler(base)  # a new one, which remembers no prefix
        started = time.perf_counter()
        results = sampled(sampler, samples)
        seconds = time.perf_counter() - started
        answers = [result.sequences[0].tokens.tolist() for result in results]
        tell(
            {
                "seconds": seconds,
                "tokens": sum(map(len, answers)),
                "prefix_hit_tokens": sum(result.prompt_cache_hit_tokens for result in results),
                "answers": dict(enumerate(answers)),
                "read_rate": read_rate(spec.device),
            }
        )
