"""One decode step at several batch sizes, beside reading the weights (and KV) once.

The limit is the bytes that a step has to read (reading.py: the weights as they are held, keys and
values of all sequences, which have no prefix in common) over the rate at which this process reads
memory, measured before and after with the same number of threads. `share_of_limit` is ours / limit:
1 would be perfect. Times are the best step's, which neighbours disturb least; medians are in the
document.
"""

from __future__ import annotations

import argparse
import random
import statistics
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import precision
from mail_batches import FIRST_ID
from reading import read_rate, step_bytes
from rows import row, run, say
from shapes import SHAPES, Shape, write_model

CONTEXT = 300
"""Tokens of a sequence in the middle of the steps that count, about."""
WARM_UP = 3


def options(parser: argparse.ArgumentParser) -> None:
    precision.add_options(parser)
    parser.add_argument("--shape", choices=[*SHAPES], nargs="+", help="random weights of these")
    parser.add_argument("--batch", type=int, nargs="+", help="1 4 16 64 unless --quick")
    parser.add_argument("--steps", type=int, help="that count; 16 unless --quick")


def measure(options: argparse.Namespace) -> Iterator[dict[str, Any]]:
    import torch
    from tinsmith.engine.base_model import BaseModel

    dtype, why = precision.choose(options.dtype, options.device)
    say(f"{dtype}: {why}; {torch.get_num_threads()} threads")
    usual = ["qwen3-4b"] if options.device == "cuda" else ["qwen3-266m", "qwen3-0.6b"]
    steps = options.steps or (4 if options.quick else 16)
    for name in options.shape or (["small"] if options.quick else usual):
        shape = SHAPES[name]
        with tempfile.TemporaryDirectory() as scratch:
            directory = write_model(shape, Path(scratch), dtype)
            base = BaseModel.load(directory, options.device, getattr(torch, dtype))
        for batch in options.batch or ([1, 4] if options.quick else [1, 4, 16, 64]):
            before = read_rate(options.device)
            seconds, context = decode_steps(base, shape, batch, steps)
            rate = max(before, read_rate(options.device))
            weight_bytes = held_bytes(base)
            limit = step_bytes(shape, dtype, batch, context, weight_bytes) / rate
            yield row(
                f"{name} {dtype}, batch {batch}, context {context:.0f}",
                ours=1e3 * min(seconds),
                unit="ms",
                limit=1e3 * limit,
                median=1e3 * statistics.median(seconds),
                read_rate=rate,
                threads=torch.get_num_threads(),
                weight_bytes=weight_bytes,
                device=options.device,
                dtype=dtype,
            )


def decode_steps(base: Any, shape: Shape, batch: int, steps: int) -> tuple[list[float], float]:
    """Seconds of each step when all sequences are being decoded, and their average length then."""
    import torch
    from our_engine import greedy, make_sampler

    draw = random.Random(batch)
    # Those that were read first get some tokens while the others are being read.
    length = CONTEXT - steps // 2 - batch
    sampler = make_sampler(base)
    for number in range(batch):
        prompt = [draw.randrange(FIRST_ID, shape.vocab) for _ in range(length)]
        sampler.add(str(number), greedy(prompt, 2 * CONTEXT), None)
    while sampler.num_waiting or sampler.num_active < batch:
        sampler.step()
    seconds = []
    for _ in range(WARM_UP + steps):
        started = time.perf_counter()
        sampler.step()
        if base.device.type != "cpu":
            torch.cuda.synchronize()
        seconds.append(time.perf_counter() - started)
    generated = sampler.counts.generated_tokens / batch - steps / 2
    return seconds[WARM_UP:], length + generated


def held_bytes(base: Any) -> int:
    """Of the base model's weights, each counted once."""
    held = {weight.data_ptr(): weight.nbytes for weight in base.model.parameters()}
    return sum(held.values())


if __name__ == "__main__":
    run("decode", __doc__, options, measure)
