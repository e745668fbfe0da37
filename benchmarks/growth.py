"""How cost grows: ten times the data, ten times the runs, sequences of 256 to 8,192 tokens.

`limit` is what the first figure of its kind predicts by the count of operations (attention is
quadratic) or, for memory, by a straight line through the two figures before; `share_of_limit`
above 1 is slower, or more, than that.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import precision
from mail_batches import Task, to_op
from operations import of_batch
from rows import row, run, say
from shapes import SHAPES, write_model
from sides import Side, Spec, in_turn

TIMES = 10
REGISTERED = 4
"""Idle runs, and then ten times as many."""


def options(parser: argparse.ArgumentParser) -> None:
    precision.add_options(parser)
    parser.add_argument("--shape", choices=[*SHAPES], help="random weights of this")
    parser.add_argument("--steps", type=int, help="measured after one to warm up")


def measure(options: argparse.Namespace) -> Iterator[dict[str, Any]]:
    dtype, why = precision.choose(options.dtype, options.device)
    say(f"{dtype}: {why}")
    name = options.shape or ("small" if options.quick else "qwen3-266m")
    steps = options.steps or (2 if options.quick else 3)
    lengths = [256, 512, 1024, 2048] if options.quick else [256, 512, 1024, 2048, 4096, 8192]
    shape = SHAPES[name]
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        spec = Spec(
            kind="ours",
            directory=str(write_model(shape, folder / "model", dtype)),
            shape=shape,
            task=Task(shape.vocab, num_batches=1),
            dtype=dtype,
            device=options.device,
            settings={"zero_weight_logprobs": False},
        )
        where = f"{name} {dtype}"
        yield from more_data(where, spec, steps)
        yield from more_runs(where, spec, folder / "home", steps)
        yield from longer_sequences(where, spec, lengths, steps)


def more_data(where: str, spec: Spec, steps: int) -> Iterator[dict[str, Any]]:
    # A mail no longer than its neighbours, so that the count of both differs by ten alone.
    few = replace(spec.task, shortest=240, longest=240)
    many = replace(few, batch_size=TIMES * few.batch_size)
    seconds, operations = [], []
    for task in (few, many):
        with Side(f"{task.batch_size} mails", replace(spec, task=task)) as side:
            in_turn([side], 1 + steps)
        seconds.append(typical_seconds(side))
        operations.append(operations_of(side))
    yield row(
        f"{where}, {TIMES} x the mails in an op",
        ours=seconds[1],
        unit="s",
        limit=seconds[0] * operations[1] / operations[0],
    )


def more_runs(where: str, spec: Spec, home: Path, steps: int) -> Iterator[dict[str, Any]]:
    from live_engine import LiveEngine
    from our_engine import adam
    from tinsmith.config import Engine as EngineSettings

    optim_step = adam(spec.learning_rate)
    op = to_op(spec.task.batches()[0])
    medians, peaks = [], []
    for registered in (REGISTERED, TIMES * REGISTERED):
        settings = EngineSettings(device=spec.device, dtype=spec.dtype)
        with LiveEngine(home / str(registered), spec.directory, settings) as engine:
            runs = [engine.create_run(spec.rank, seed) for seed in range(registered)]
            for run_id in runs:  # each has moments now, as a run has that somebody works on
                engine.wait([engine.submit(run_id, op), engine.submit(run_id, optim_step)])
            times = []
            for _ in range(2 + 2 * steps):
                started = time.perf_counter()
                engine.wait([engine.submit(runs[0], op), engine.submit(runs[0], optim_step)])
                times.append(time.perf_counter() - started)
            medians.append(statistics.median(times))
            peaks.append(engine.peak_bytes())
            say(f"  {registered} runs: {medians[-1]:.3f} s a step, {peaks[-1] / 1e9:.2f} GB")
    yield row(
        f"{where}, a step beside {TIMES * REGISTERED - 1} idle runs",
        ours=medians[1],
        unit="s",
        limit=medians[0],
    )
    yield row(
        f"{where}, memory with {TIMES * REGISTERED} runs",
        ours=peaks[1] / 1e9,
        unit="GB",
        limit=(peaks[0] + (TIMES - 1) * REGISTERED * 16 * spec.shape.adapter_parameters(spec.rank))
        / 1e9,
    )


def longer_sequences(
    where: str, spec: Spec, lengths: list[int], steps: int
) -> Iterator[dict[str, Any]]:
    """Time at the same number of tokens in the same micro-batch, memory of a single sequence."""
    longest = lengths[-1]
    first: Side | None = None
    peaks: list[float] = []
    settings = {**spec.settings, "token_budget": longest}
    for length in lengths:
        alone = Task(
            spec.shape.vocab, 1, 1, shortest=length, longest=length, num_shared=0, num_weighted=60
        )
        together = replace(alone, batch_size=longest // length, num_weighted=60 * length // longest)
        with Side(f"{length} tokens alone", replace(spec, task=alone, settings=settings)) as side:
            in_turn([side], 2)
        peaks.append(side.peak_bytes)
        with Side(
            f"{longest} tokens in sequences of {length}",
            replace(spec, task=together, settings=settings),
        ) as side:
            in_turn([side], 1 + steps)
        first = first or side
        yield row(
            f"{where}, {longest} tokens in sequences of {length}",
            ours=typical_seconds(side),
            unit="s",
            limit=typical_seconds(first) * operations_of(side) / operations_of(first),
        )
    for index, length in enumerate(lengths):
        line = None
        if index >= 2:
            slope = (peaks[index - 1] - peaks[index - 2]) / (
                lengths[index - 1] - lengths[index - 2]
            )
            line = (peaks[index - 1] + slope * (length - lengths[index - 1])) / 1e9
        yield row(
            f"{where}, memory of one sequence of {length}",
            ours=peaks[index] / 1e9,
            unit="GB",
            limit=line,
        )


def typical_seconds(side: Side) -> float:
    return statistics.median(step["seconds"] for step in side.steps[1:])


def operations_of(side: Side) -> float:
    (batch,) = side.spec.task.batches()
    return of_batch(side.spec.shape, batch, side.spec.rank).total


if __name__ == "__main__":
    run("growth", __doc__, options, measure)
