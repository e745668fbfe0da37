"""transformers' generate in a process of its own; a step is one batch of mails, left-padded.

The mails are sorted by length, so that there is little to pad, and batches are taken evenly from
short to long. The batch size is the fastest of `batch_sizes` on prompts cut to a few tokens. Its
rate per mail does not depend on how many full batches follow each other, so fewer mails than ours
has will do. Settings: `prompts` and `new_tokens` as for sampler_side, `batch_sizes`, and `mails`,
how many to take at least.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from sides import Spec
from transformers import AutoModelForCausalLM, GenerationConfig

TRIED_TOKENS = 4
"""Of a prompt and of an answer, to find the best batch size."""


def run(spec: Spec, turns: Iterator[None], tell: Callable[[dict[str, Any]], None]) -> None:
    model = AutoModelForCausalLM.from_pretrained(spec.directory, dtype=getattr(torch, spec.dtype))
    model.to(spec.device).eval()
    prompts = json.loads(Path(spec.settings["prompts"]).read_text())
    new_tokens, mails = spec.settings["new_tokens"], spec.settings["mails"]
    batch_size = fastest(model, prompts, spec.settings["batch_sizes"])
    order = sorted(range(len(prompts)), key=lambda number: len(prompts[number]))
    batches = evenly(order, batch_size, mails)
    for (number, batch), _ in zip(enumerate(batches), turns, strict=False):
        started = time.perf_counter()
        answers = generate(model, [prompts[mail] for mail in batch], new_tokens)
        seconds = time.perf_counter() - started
        tell(
            {
                "seconds": seconds,
                "tokens": sum(map(len, answers)),
                "batch_size": batch_size,
                "left": len(batches) - 1 - number,
                "answers": dict(zip(batch, answers, strict=True)),
            }
        )


def fastest(model: Any, prompts: list[list[int]], batch_sizes: list[int]) -> int:
    """The batch size with the most mails a second."""
    rates = {}
    for size in batch_sizes:
        short = [prompt[:TRIED_TOKENS] for prompt in prompts[:size]]
        generate(model, short, 1)
        started = time.perf_counter()
        generate(model, short, TRIED_TOKENS)
        rates[size] = len(short) / (time.perf_counter() - started)
    return max(rates, key=rates.__getitem__)


def evenly(order: list[int], size: int, mails: int) -> list[list[int]]:
    """So many mails or a few more, as full batches that lie evenly over all."""
    full = [order[start : start + size] for start in range(0, len(order) - size + 1, size)]
    full = full or [order]
    count = min(len(full), -(-mails // size))
    return [full[(2 * number + 1) * len(full) // (2 * count)] for number in range(count)]


@torch.inference_mode()
def generate(model: Any, prompts: list[list[int]], new_tokens: int) -> list[list[int]]:
    """Exactly so many new tokens for each, greedily."""
    longest = max(map(len, prompts))
    ids = torch.zeros(len(prompts), longest, dtype=torch.int64)
    mask = torch.zeros_like(ids)
    for row, prompt in enumerate(prompts):
        ids[row, longest - len(prompt) :] = torch.tensor(prompt)
        mask[row, longest - len(prompt) :] = 1
    model.generation_config.eos_token_id = None  # an ended answer would be shorter than ours
    output = model.generate(
        input_ids=ids.to(model.device),
        attention_mask=mask.to(model.device),
        generation_config=GenerationConfig(
            max_new_tokens=new_tokens, do_sample=False, use_cache=True, pad_token_id=0
        ),
    )
    return output[:, longest:].tolist()
