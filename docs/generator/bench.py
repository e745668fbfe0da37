"""The real parts that the figures are computed with: tokenizer, base model, trainer, one batch.

Nothing here computes anything of its own. mailroom renders and tokenizes, tinsmith's engine runs
the model; this file only introduces them to each other, without a server in between, so that
gradients and optimizer state can be looked at.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import tinker
from mailroom.corpus.build import build
from mailroom.corpus.corpus import Corpus
from mailroom.corpus.example import Example
from mailroom.prompt.tokens import WeightedTokens, encode_example, to_datum
from mailroom.taxonomy import Taxonomy
from tinsmith.base_models import BUILTIN_DIRECTORY
from tinsmith.domain.datum import Datum
from tinsmith.domain.ops import AdamParams, ForwardBackward, LoraConfig, OptimStep
from tinsmith.domain.outcomes import ForwardBackwardDone
from tinsmith.engine.adapter import AdapterState
from tinsmith.engine.base_model import BaseModel
from tinsmith.engine.trainer import Trainer
from tinsmith.engine.training_state import TrainingState
from torch import Tensor
from transformers import AutoTokenizer

RANK, SEED, LEARNING_RATE, BATCH_SIZE = 32, 0, 2e-3, 4
"""Of the demo's preset."""
CATEGORY_SHOWN = "verify_code"


@dataclass(frozen=True, slots=True)
class Bench:
    base: BaseModel
    tokenizer: Any
    taxonomy: Taxonomy
    examples: tuple[Example, ...]
    """The built-in training examples, in the order of the corpus."""

    @classmethod
    def open(cls, scratch: Path, model: Path = BUILTIN_DIRECTORY) -> Bench:
        """Load the built-in base model and build the built-in corpus into `scratch`."""
        taxonomy = Taxonomy.load("default")
        build("builtin", scratch / "corpus", taxonomy=taxonomy)
        return cls(
            base=BaseModel.load(model, "cpu"),
            tokenizer=AutoTokenizer.from_pretrained(model),
            taxonomy=taxonomy,
            examples=Corpus.load(scratch / "corpus").train,
        )

    @property
    def shown(self) -> Example:
        """The example that the pages show."""
        return next(e for e in self.examples if e.category == CATEGORY_SHOWN)

    def encode(self, example: Example) -> WeightedTokens:
        return encode_example(example.message, example.completion, self.tokenizer, self.taxonomy)

    def datum(self, example: Example) -> Datum:
        """What training sends for the example, as the engine receives it."""
        return as_received(to_datum(self.encode(example)))

    def batch(self) -> list[Datum]:
        return [self.datum(example) for example in self.examples[:BATCH_SIZE]]

    def text(self, token_id: int) -> str:
        return str(self.tokenizer.decode([token_id], skip_special_tokens=False))

    def trainer(self, rank: int = RANK) -> Trainer:
        """A new run: A drawn by the seed, B zero, no moments, no gradient."""
        lora = LoraConfig(rank=rank, seed=SEED, train_unembed=False)
        return Trainer(self.base, TrainingState(AdapterState.create(self.base, lora)))


def as_received(datum: tinker.Datum) -> Datum:
    inputs = {name: data.to_numpy() for name, data in datum.loss_fn_inputs.items()}
    return Datum(np.array(datum.model_input.to_ints(), dtype=np.int32), inputs)


def forward_backward(
    trainer: Trainer, data: Sequence[Datum], *, forward_only: bool = False
) -> ForwardBackwardDone:
    op = ForwardBackward(tuple(data), "cross_entropy", forward_only=forward_only)
    return trainer.forward_backward(op)


def gradient_of(trainer: Trainer) -> Tensor:
    """A copy of what has gathered since the last step, flat [P]."""
    gradient_P = trainer.state.gradient_P
    assert gradient_P is not None
    return gradient_P.clone()


def step(trainer: Trainer, learning_rate: float = LEARNING_RATE) -> None:
    """One optimizer step with the SDK's own defaults for everything but the learning rate."""
    trainer.optim_step(OptimStep(AdamParams(learning_rate=learning_rate)))


def part(trainer: Trainer, flat_P: Tensor, letter: str) -> Tensor:
    """All entries of a flat vector that belong to the As, or to the Bs."""
    import torch

    ends = f"lora_{letter}.weight"
    return torch.cat(
        [flat_P[p.start : p.stop] for p in trainer.state.layout.parameters if p.name.endswith(ends)]
    )
