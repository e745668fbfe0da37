"""What a training run keeps on disk beside the corpus, so that it can go on after anything.

    RUN/run.json        the plan, how far it is, and the last checkpoint
    RUN/metrics.jsonl   one line for each step

The state is replaced whole, and only after the service has confirmed the checkpoint it names.
"""

from __future__ import annotations

import json
import os
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from mailroom.errors import MailroomError

VERSION = 1


@dataclass(frozen=True, kw_only=True, slots=True)
class RunState:
    digest: str
    """Of the plan, the corpus and the service: a state of other work is not gone on from."""
    plan: dict[str, Any]
    corpus: str
    """What the data is called, for people."""
    step: int = 0
    """Steps that the last checkpoint holds."""
    checkpoint: str | None = None
    """tinker:// path of the last checkpoint."""
    model: str | None = None
    """tinker:// path of the sampler weights, once training is complete."""
    seconds: float = 0.0
    """Time spent on the steps that the checkpoint holds."""
    trainable_parameters: int | None = None
    adapter_bytes: int | None = None
    temperature: float = 1.0
    """What the model's scores are divided by, so that its confidence means what it says."""

    @property
    def is_complete(self) -> bool:
        return self.model is not None


@dataclass(frozen=True, slots=True)
class StepMetrics:
    step: int
    """Counted from 1: the step that this line ends."""
    loss: float
    """Mean over the batch's weighted tokens, before the step."""
    learning_rate: float
    num_tokens: int
    """All tokens of the batch."""
    num_weighted_tokens: int
    seconds: float
    """Since training began, pauses between resumptions left out."""


class RunDirectory:
    def __init__(self, path: Path) -> None:
        self.path = path
        self.metrics_path = path / "metrics.jsonl"

    def load(self) -> RunState | None:
        """The state that an earlier command left, or None.

        Raises:
            MailroomError: there is one that cannot be read.
        """
        try:
            text = (self.path / "run.json").read_text()
        except FileNotFoundError:
            return None
        try:
            fields = json.loads(text)
            if fields.pop("version") != VERSION:
                raise ValueError("written by another version of mailroom")
            return RunState(**fields)
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            raise MailroomError(
                f"cannot read {self.path / 'run.json'}: {error}. Remove the folder, or train into "
                "another one with --run"
            ) from error

    def save(self, state: RunState) -> None:
        """Replace the state; whole or not at all, whatever happens meanwhile."""
        self.path.mkdir(parents=True, exist_ok=True)
        temporary = self.path / f".run.json.{os.getpid()}"
        with temporary.open("w") as file:
            json.dump({"version": VERSION, **asdict(state)}, file, indent=1)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(self.path / "run.json")

    def metrics(self) -> list[StepMetrics]:
        return read_metrics(self.metrics_path)

    def append_metrics(self, metrics: StepMetrics) -> None:
        with self.metrics_path.open("a") as file:
            file.write(json.dumps(asdict(metrics)) + "\n")

    def truncate_metrics(self, num_steps: int) -> None:
        """Drop the lines of steps after `num_steps`, which will be trained again."""
        kept = [metrics for metrics in self.metrics() if metrics.step <= num_steps]
        self.path.mkdir(parents=True, exist_ok=True)
        temporary = self.path / f".metrics.jsonl.{os.getpid()}"
        temporary.write_text("".join(json.dumps(asdict(metrics)) + "\n" for metrics in kept))
        temporary.replace(self.metrics_path)


def read_metrics(path: Path) -> list[StepMetrics]:
    """The lines of a metrics file; a last line that a crash cut short is left out."""
    try:
        lines = path.read_text().splitlines()
    except FileNotFoundError:
        return []
    metrics = []
    for line in lines:
        try:
            metrics.append(StepMetrics(**json.loads(line)))
        except (ValueError, TypeError):
            break
    return metrics


def find_run(corpus: Path, model: str, elsewhere: str | None = None) -> RunDirectory | None:
    """The run that produced this tinker:// path, below a corpus folder or in one that is named."""
    found = [path.parent for path in sorted((corpus / "runs").glob("*/run.json"))]
    for path in [*found, *([Path(elsewhere)] if elsewhere else [])]:
        directory = RunDirectory(path)
        try:
            state = directory.load()
        except MailroomError:
            continue
        if state is not None and model in (state.model, state.checkpoint):
            return directory
    return None
