"""The sides of a comparison, each in a process of its own and stepped in turn.

A process of its own, so that its peak memory is its own; in turn, so that busy neighbours slow all
of them alike. The parent writes a word and the child answers a line of JSON:

    step -> {"seconds": ..., "tokens": ..., "loss": ..., "peak_bytes": ...}
    rate -> {"operations_per_s": ...}    what matrix products reach in this process
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from mail_batches import Task
from rows import say
from shapes import Shape


@dataclass(frozen=True, kw_only=True, slots=True)
class Spec:
    """What one side does."""

    kind: str
    """ours, trl, peft, sampler or generate: the module <kind>_side."""
    directory: str
    """The base model."""
    shape: Shape
    task: Task
    dtype: str
    device: str = "cpu"
    rank: int = 32
    learning_rate: float = 1e-4
    threads: int = 0
    """Of torch; 0 leaves its default."""
    settings: Mapping[str, Any]
    """Of that kind of side alone."""

    @classmethod
    def from_json(cls, text: str) -> Spec:
        told = json.loads(text)
        return cls(**{**told, "shape": Shape(**told["shape"]), "task": Task(**told["task"])})


class SideFailedError(Exception):
    """A side's process ended before it had answered."""


class Side:
    """The parent's end."""

    def __init__(self, name: str, spec: Spec) -> None:
        self.name = name
        self.spec = spec
        self.steps: list[dict[str, float]] = []
        self.rates: list[float] = []
        environment = dict(os.environ)
        if spec.threads:
            environment["OMP_NUM_THREADS"] = str(spec.threads)
        self._child = subprocess.Popen(
            [sys.executable, str(Path(__file__).with_name("side.py")), json.dumps(asdict(spec))],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=environment,
        )

    def step(self) -> dict[str, float]:
        self.send("step")
        return self.answer()

    def send(self, word: str) -> None:
        assert self._child.stdin is not None
        try:
            self._child.stdin.write(word + "\n")
            self._child.stdin.flush()
        except BrokenPipeError:
            raise SideFailedError(f"{self.name}: its process has ended") from None

    def answer(self) -> dict[str, float]:
        assert self._child.stdout is not None
        line = self._child.stdout.readline()
        if not line:
            raise SideFailedError(f"{self.name}: its process has ended ({self._child.wait()})")
        told = json.loads(line)
        if "seconds" in told:
            self.steps.append(told)
        return told

    def measure_rate(self) -> None:
        self.send("rate")
        self.rates.append(self.answer()["operations_per_s"])

    def close(self) -> None:
        assert self._child.stdin is not None
        if self._child.poll() is None:
            self._child.stdin.close()
        self._child.wait()

    def tokens_per_s(self, warm_up: int) -> float:
        """Of the best step after the first few: the one that neighbours disturbed least, as the
        product rate is the best of its measurements too."""
        return max(step["tokens"] / step["seconds"] for step in self.steps[warm_up:])

    def median_tokens_per_s(self, warm_up: int) -> float:
        measured = self.steps[warm_up:]
        return statistics.median(step["tokens"] / step["seconds"] for step in measured)

    @property
    def peak_bytes(self) -> float:
        return self.steps[-1]["peak_bytes"]

    def __enter__(self) -> Side:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def in_turn(sides: Sequence[Side], num_steps: int, *, with_rate: Side | None = None) -> None:
    """So many steps of each, one side after the other, and the product rate once in between."""
    for number in range(num_steps):
        for side in sides:
            step = side.step()
            say(f"  {side.name}, step {number + 1}: {step['seconds']:.2f} s")
        # Not before the second step, so that a peak of memory is never the products' own.
        if with_rate is not None and number:
            with_rate.measure_rate()
