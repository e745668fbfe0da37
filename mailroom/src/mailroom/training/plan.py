"""What to train and how: the settings of a run, and the presets to start from."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass, replace
from typing import Literal

from mailroom.config import BUILTIN_BASE_MODEL, REFERENCE_BASE_MODEL
from mailroom.errors import MailroomError

Schedule = Literal["constant", "linear"]


def _at_least(what: str, value: int, least: int) -> None:
    if value < least:
        raise MailroomError(f"{what} must be at least {least}, got {value}")


@dataclass(frozen=True, kw_only=True, slots=True)
class Plan:
    base_model: str
    """As the service names it."""
    num_examples: int = 400
    """How many of the corpus's training examples, from its beginning; 0 takes all."""
    rank: int = 32
    """Inner width of the adapter."""
    train_unembed: bool = False
    """Whether the output layer is adapted too."""
    batch_size: int = 4
    """Examples of one optimizer step."""
    learning_rate: float = 1e-4
    """The peak, if there is a schedule."""
    schedule: Schedule = "constant"
    """linear: falls to 0 at the last step."""
    warmup_steps: int = 0
    """Steps over which the learning rate rises to its peak."""
    num_epochs: int = 3
    weight_decay: float = 0.0
    grad_clip_norm: float = 0.0
    """Largest norm of a batch's summed gradient; 0 does not clip."""
    seed: int = 0
    """Decides the adapter's initial weights and the order of the examples."""
    max_prompt_tokens: int = 512
    """Longer prompts are trimmed to this, in training and ever after."""

    def __post_init__(self) -> None:
        _at_least("number of examples", self.num_examples, 0)
        _at_least("rank", self.rank, 1)
        _at_least("batch size", self.batch_size, 1)
        _at_least("number of epochs", self.num_epochs, 1)
        _at_least("warm-up steps", self.warmup_steps, 0)
        _at_least("prompt budget in tokens", self.max_prompt_tokens, 64)
        if not 0.0 < self.learning_rate < float("inf"):
            raise MailroomError(f"the learning rate must be above 0, got {self.learning_rate}")
        if self.schedule not in ("constant", "linear"):
            raise MailroomError(f"schedule is constant or linear, got {self.schedule!r}")

    def digest(self, corpus_digest: str, service: str) -> str:
        """Names what a run is: the same settings and data on the same service, the same digest."""
        told = json.dumps([asdict(self), corpus_digest, service], sort_keys=True)
        return hashlib.sha256(told.encode()).hexdigest()[:12]


REFERENCE = Plan(base_model=REFERENCE_BASE_MODEL)
PRESETS = {
    # The write-up that this project follows.
    "reference": REFERENCE,
    # A model of a few million parameters learns next to nothing from 300 steps of 1e-4.
    "tiny": replace(
        REFERENCE,
        base_model=BUILTIN_BASE_MODEL,
        learning_rate=4e-3,
        schedule="linear",
        warmup_steps=10,
    ),
}


def preset_for(base_model: str | None) -> str:
    """The preset's name for a base model: `tiny` for the built-in one, also when none is named."""
    return "tiny" if base_model in (None, BUILTIN_BASE_MODEL) else "reference"
