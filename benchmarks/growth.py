"""How cost grows: ten times the data, ten times the runs, sequences of 256 to 8,192 tokens.

`limit` is what the small case, measured in turn with the large one, predicts by the count of
operations (attention is quadratic) or, for memory, what a straight line through the two figures
before predicts; `share_of_limit` above 1 is slower, or more, than that. Times are the best of the
steps, which neighbours disturb least.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import precision
from live_engine import LiveEngine
from mail_batches import Task, to_op
from operations import of_batch
from our_engine import adam
from rows import row, run, say
from shapes import SHAPES, write_model
from sides import Side, Spec, in_turn
from tinsmith.config import Engine as EngineSettings

TIMES = 10
REGISTERED = 4
"""Runs of an engine, and then ten times as many."""
STATE_BYTES_PER_PARAMETER = 16
"""Weight, gradient and two moments in fp32."""


def options(parser: argparse.ArgumentParser) -> None:
    precision.add_options(parser)
    parser.add_argument("--shape", choices=[*SHAPES], help="random weights of this")
    parser.add_argument("--steps", type=int, help="measured after one to warm up")


def measure(options: argparse.Namespace) -> Iterator[dict[str, Any]]:
    dtype, why = precision.choose(options.dtype, options.device)
    say(f"{dtype}: {why}")
    name = options.shape or ("small" if options.quick else "qwen3-266m")
    steps = options.steps or (2 if options.quick else 3)
    lengths = [256, 512, 1024] if options.quick else [256, 512, 1024, 2048, 4096, 8192]
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
    # Mails of one length, so that the counts of operations differ by ten exactly.
    few = replace(spec.task, shortest=240, longest=240)
    many = replace(few, batch_size=TIMES * few.batch_size)
    with (
        Side(f"{few.batch_size} mails", replace(spec, task=few)) as small,
        Side(f"{many.batch_size} mails", replace(spec, task=many)) as large,
    ):
        in_turn([small, large], 1 + steps)
    yield row(
        f"{where}, {TIMES} x the mails in an op",
        ours=best_seconds(large),
        unit="s",
        limit=predicted_seconds(small, large),
    )


def more_runs(where: str, spec: Spec, home: Path, steps: int) -> Iterator[dict[str, Any]]:
    few, many = REGISTERED, TIMES * REGISTERED
    with Crowd(spec, home / "few", few) as small, Crowd(spec, home / "many", many) as large:
        for _ in range(2 + 2 * steps):
            small.step()
            large.step()
        peaks = [crowd.engine.peak_bytes() for crowd in (small, large)]
    yield row(
        f"{where}, a step beside {many - 1} idle runs, not {few - 1}",
        ours=min(large.seconds),
        unit="s",
        limit=min(small.seconds),
    )
    added = (many - few) * STATE_BYTES_PER_PARAMETER * spec.shape.adapter_parameters(spec.rank)
    yield row(
        f"{where}, memory with {many} runs",
        ours=peaks[1] / 1e9,
        unit="GB",
        limit=(peaks[0] + added) / 1e9,
    )


class Crowd:
    """An engine with so many runs that have been trained, of which one is at work."""

    def __init__(self, spec: Spec, home: Path, registered: int) -> None:
        settings = EngineSettings(device=spec.device, dtype=spec.dtype)
        self.seconds: list[float] = []
        self._work = [to_op(spec.task.batches()[0]), adam(spec.learning_rate)]
        self.engine = LiveEngine(home, spec.directory, settings)
        self._runs = [self.engine.create_run(spec.rank, seed) for seed in range(registered)]
        for run_id in self._runs:  # each has moments now, as a run has that somebody works on
            self._step(run_id)

    def step(self) -> None:
        started = time.perf_counter()
        self._step(self._runs[0])
        self.seconds.append(time.perf_counter() - started)
        say(f"  a step beside {len(self._runs) - 1} idle runs: {self.seconds[-1]:.3f} s")

    def _step(self, run_id: str) -> None:
        self.engine.wait([self.engine.submit(run_id, op) for op in self._work])

    def __enter__(self) -> Crowd:
        return self

    def __exit__(self, *_: object) -> None:
        self.engine.__exit__()


def longer_sequences(
    where: str, spec: Spec, lengths: list[int], steps: int
) -> Iterator[dict[str, Any]]:
    """Time at the same number of tokens in the same micro-batch, memory of a single sequence."""
    shortest, longest = lengths[0], lengths[-1]
    settings = {**spec.settings, "token_budget": longest}

    def side(length: int, count: int) -> Side:
        weighted = 60 * length // longest if count > 1 else 60
        task = Task(
            spec.shape.vocab,
            num_batches=1,
            batch_size=count,
            shortest=length,
            longest=length,
            num_shared=0,
            num_weighted=max(1, weighted),
        )
        return Side(f"{count} x {length} tokens", replace(spec, task=task, settings=settings))

    peaks: list[float] = []
    for length in lengths:
        with side(length, 1) as alone:
            in_turn([alone], 2)
        peaks.append(alone.peak_bytes)
    for length in lengths[1:]:
        with (
            side(shortest, longest // shortest) as small,
            side(length, longest // length) as large,
        ):
            in_turn([small, large], 1 + steps)
        yield row(
            f"{where}, {longest} tokens in sequences of {length}",
            ours=best_seconds(large),
            unit="s",
            limit=predicted_seconds(small, large),
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


def best_seconds(side: Side) -> float:
    return min(step["seconds"] for step in side.steps[1:])


def predicted_seconds(small: Side, large: Side) -> float:
    """Of the large one, were it as fast an operation as the small one."""
    return best_seconds(small) * operations_of(large) / operations_of(small)


def operations_of(side: Side) -> float:
    (batch,) = side.spec.task.batches()
    return of_batch(side.spec.shape, batch, side.spec.rank).total


if __name__ == "__main__":
    run("growth", __doc__, options, measure)
