"""Scoring a closed set of continuations: which tokens to score, and what the scores come to."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Candidate:
    """One continuation of the prompt, cut off where no other candidate goes the same way."""

    key: str
    tokens: tuple[int, ...]
    num_shared: int
    """Leading tokens that all candidates share; their logprobs say nothing about the choice."""

    @property
    def num_scored(self) -> int:
        return len(self.tokens) - self.num_shared


def candidates(continuations: Mapping[str, Sequence[int]]) -> tuple[Candidate, ...]:
    """Cut each continuation to the tokens that decide between them.

    The decision is a walk down the tree of continuations: scoring starts after the stem that all
    share and ends with the first token that leaves only one, so that a label of many tokens is
    not punished for what follows of itself.

    Args:
        continuations: category key -> token ids, each tokenized as a whole, the way training
            tokenizes it; give them a tail, so that no one is the beginning of another.

    Raises:
        ValueError: fewer than two, or one is the beginning of another.
    """
    if len(continuations) < 2:
        raise ValueError(f"a choice needs at least two candidates, got {len(continuations)}")
    num_shared = _shared(list(continuations.values()))
    chosen = []
    for key, tokens in continuations.items():
        others = [other for name, other in continuations.items() if name != key]
        needed = 1 + max(_shared([tokens, other]) for other in others)
        if needed > len(tokens):
            raise ValueError(f"the tokens of {key!r} are the beginning of another candidate's")
        chosen.append(Candidate(key, tuple(tokens[:needed]), num_shared))
    return tuple(chosen)


def normalised(logprobs: Mapping[str, float]) -> dict[str, float]:
    """Probabilities over the closed set: the softmax of summed logprobs."""
    highest = max(logprobs.values())
    if math.isnan(highest) or highest == -math.inf:
        return dict.fromkeys(logprobs, 1.0 / len(logprobs))
    weights = {key: math.exp(value - highest) for key, value in logprobs.items()}
    total = math.fsum(weights.values())
    return {key: weight / total for key, weight in weights.items()}


def _shared(sequences: Sequence[Sequence[int]]) -> int:
    """Length of the beginning that all sequences have in common."""
    length = 0
    for column in zip(*sequences, strict=False):
        if len(set(column)) > 1:
            break
        length += 1
    return length
