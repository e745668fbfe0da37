"""Eight tenants at once on one base model, through ledger and engine.

Beside the same eight one after another in the same engine, and beside eight PEFT processes. The
limit of memory is what it has to hold: the engine with one tenant at its peak (base, one adapter
with gradient and moments, one micro-batch's activations), seven more adapters with gradient and
moments, and 15 %.
"""

from __future__ import annotations

import argparse
import os
import statistics
import tempfile
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import precision
from mail_batches import Task, num_tokens, to_op
from rows import row, run, say
from shapes import SHAPES, write_model
from sides import Side, Spec

RANK = 32
STATE_BYTES_PER_PARAMETER = 16
"""Weight, gradient and two moments in fp32."""
MARGIN = 1.15


def options(parser: argparse.ArgumentParser) -> None:
    precision.add_options(parser)
    parser.add_argument("--shape", choices=[*SHAPES], help="random weights of this")
    parser.add_argument("--tenants", type=int, help="how many; 8 unless --quick")
    parser.add_argument("--steps", type=int, help="of each tenant in a round")
    parser.add_argument("--rounds", type=int, help="both ways in turn, so many times")


def measure(options: argparse.Namespace) -> Iterator[dict[str, Any]]:
    from tinsmith.config import Engine as EngineSettings

    dtype, why = precision.choose(options.dtype, options.device)
    say(f"{dtype}: {why}")
    name = options.shape or ("small" if options.quick else "qwen3-266m")
    steps = options.steps or 2
    rounds = options.rounds or (1 if options.quick else 3)
    tenants = options.tenants or (3 if options.quick else 8)
    shape = SHAPES[name]
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        spec = Spec(
            kind="peft",
            directory=str(write_model(shape, folder / "model", dtype)),
            shape=shape,
            task=Task(shape.vocab, num_batches=steps),
            dtype=dtype,
            device=options.device,
            rank=RANK,
            threads=max(1, (os.cpu_count() or 1) // tenants),
            settings={},
        )
        settings = EngineSettings(device=options.device, dtype=dtype)
        at_once, in_turn, peak = ours(spec, folder / "all", settings, steps, rounds, tenants)
        _, _, peak_of_one = ours(spec, folder / "one", settings, steps, 1, 1)
        peft, peft_bytes, num_at_once = peft_processes(spec, steps, tenants)
    limit = peak_of_one + (tenants - 1) * STATE_BYTES_PER_PARAMETER * shape.adapter_parameters(RANK)
    where = f"{name} {dtype}, {tenants} tenants at once"
    yield row(
        f"{where}, beside one after another", ours=at_once, theirs=in_turn, unit="real tokens/s"
    )
    yield row(
        f"{where}, beside {tenants} PEFT processes",
        ours=at_once,
        theirs=peft,
        unit="real tokens/s",
        peft_processes_at_once=num_at_once,
    )
    yield row(
        f"{where}, peak memory",
        ours=peak / 1e9,
        theirs=peft_bytes / 1e9,
        unit="GB",
        limit=MARGIN * limit / 1e9,
        peak_of_one=peak_of_one / 1e9,
    )


def ours(
    spec: Spec, home: Path, settings: Any, steps: int, rounds: int, tenants: int
) -> tuple[float, float, int]:
    """Real tokens/s at once and one after another, each the median of the rounds, and the peak."""
    from live_engine import LiveEngine
    from our_engine import adam

    tasks = [replace(spec.task, seed=seed) for seed in range(tenants)]
    ops = [[to_op(batch) for batch in task.batches()] for task in tasks]
    tokens = sum(num_tokens(batch) for task in tasks for batch in task.batches())
    optim_step = adam(spec.learning_rate)
    at_once, in_turn = [], []
    with LiveEngine(home, spec.directory, settings) as engine:
        runs = [engine.create_run(RANK, seed) for seed in range(tenants)]

        def submit(number: int) -> list[str]:
            run_id = runs[number]
            return [
                engine.submit(run_id, op) for batch in ops[number] for op in (batch, optim_step)
            ]

        def together() -> None:
            engine.wait([request for number in range(tenants) for request in submit(number)])

        def one_by_one() -> None:
            for number in range(tenants):
                engine.wait(submit(number))

        together()  # to warm up; every tenant has its moments now
        for _ in range(rounds):
            at_once.append(tokens / seconds_of(together))
            in_turn.append(tokens / seconds_of(one_by_one))
            say(f"  {tenants} tenants: {at_once[-1]:.0f} at once, {in_turn[-1]:.0f} in turn")
        return statistics.median(at_once), statistics.median(in_turn), engine.peak_bytes()


def peft_processes(spec: Spec, steps: int, tenants: int) -> tuple[float, float, int]:
    """Real tokens/s of so many PEFT processes together, the sum of their peaks of memory, and how
    many ran at a time: as many as memory has room for."""
    with Side("PEFT process", spec) as first:
        first.step()
        room = int(0.8 * available_bytes() / first.peak_bytes)
    num_at_once = max(1, min(tenants, room))
    if num_at_once < tenants:
        say(f"  memory has room for {num_at_once} of {tenants} PEFT processes at a time")
    tokens = seconds = peaks = 0.0
    for start in range(0, tenants, num_at_once):
        seeds = range(start, min(start + num_at_once, tenants))
        sides = [
            Side(f"PEFT {seed}", replace(spec, task=replace(spec.task, seed=seed)))
            for seed in seeds
        ]
        try:
            for side in sides:
                side.step()

            def together(sides: list[Side] = sides) -> None:
                for side in sides:
                    for _ in range(steps):
                        side.send("step")
                for side in sides:
                    for _ in range(steps):
                        side.answer()

            seconds += seconds_of(together)
            tokens += sum(step["tokens"] for side in sides for step in side.steps[1:])
            peaks += sum(side.peak_bytes for side in sides)
        finally:
            for side in sides:
                side.close()
    say(f"  {tenants} PEFT processes: {tokens / seconds:.0f}")
    return tokens / seconds, peaks, num_at_once


def seconds_of(work: Any) -> float:
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def available_bytes() -> int:
    """Memory that programs could still get, as Linux tells it."""
    for line in Path("/proc/meminfo").read_text().splitlines():
        if line.startswith("MemAvailable:"):
            return int(line.split()[1]) * 1024
    raise OSError("the kernel does not tell how much memory is available")


if __name__ == "__main__":
    run("tenants", __doc__, options, measure)
