"""Batches shaped like the mail task: a shared instruction, a mail, a short answer with weights.

Token ids are random: what a step costs depends on lengths and weights alone.
"""

from __future__ import annotations

import json
import random
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tinsmith.domain.ops import ForwardBackward

FIRST_ID = 8
"""Lower ids may be control tokens."""


@dataclass(frozen=True, slots=True)
class Example:
    """One example before the shift by one: the last `num_weighted` tokens are the answer."""

    tokens: tuple[int, ...]
    num_weighted: int
    num_shared: int
    """Leading tokens that every example has."""

    @property
    def weights(self) -> list[float]:
        return [0.0] * (len(self.tokens) - self.num_weighted) + [1.0] * self.num_weighted

    @property
    def labels(self) -> list[int]:
        """As transformers wants them: -100 where a token carries no weight."""
        start = len(self.tokens) - self.num_weighted
        return [-100] * start + list(self.tokens[start:])


Batch = list[Example]


@dataclass(frozen=True, slots=True)
class Task:
    """What to draw. The defaults are the mail task: 180 to 300 tokens, 96 of them (40 % of the
    average) the same instruction, 60 weighted."""

    vocab: int
    num_batches: int = 8
    batch_size: int = 4
    shortest: int = 180
    longest: int = 300
    num_shared: int = 96
    num_weighted: int = 60
    seed: int = 0
    data: str | None = None
    """A JSON file of batches to take instead: lists of [tokens, number of weighted ones]."""

    def batches(self) -> list[Batch]:
        if self.data is not None:
            given = json.loads(Path(self.data).read_text())
            return [[Example(tuple(ids), count, 0) for ids, count in batch] for batch in given]
        draw = random.Random(self.seed)

        def ids(count: int) -> tuple[int, ...]:
            return tuple(draw.randrange(FIRST_ID, self.vocab) for _ in range(count))

        shared = ids(self.num_shared)
        return [
            [
                Example(
                    shared + ids(draw.randint(self.shortest, self.longest) - self.num_shared),
                    self.num_weighted,
                    self.num_shared,
                )
                for _ in range(self.batch_size)
            ]
            for _ in range(self.num_batches)
        ]


def num_tokens(batch: Batch) -> int:
    """Real tokens: a shared instruction counts for every example, padding for none."""
    return sum(len(example.tokens) for example in batch)


def to_op(batch: Batch) -> ForwardBackward:
    """Position i sees token i and is asked for token i + 1."""
    import numpy as np
    from tinsmith.domain.datum import Datum
    from tinsmith.domain.ops import ForwardBackward

    data = tuple(
        Datum(
            np.array(example.tokens[:-1], np.int32),
            {
                "target_tokens": np.array(example.tokens[1:], np.int64),
                "weights": np.array(example.weights[1:], np.float32),
            },
        )
        for example in batch
    )
    return ForwardBackward(data, "cross_entropy")


def to_sdk(batch: Batch) -> list[Any]:
    """The same as the SDK's datums."""
    import tinker

    return [
        tinker.Datum(
            model_input=tinker.ModelInput.from_ints(list(example.tokens[:-1])),
            loss_fn_inputs={
                "target_tokens": list(example.tokens[1:]),
                "weights": example.weights[1:],
            },
        )
        for example in batch
    ]
