"""One example as its tokens, each with its weight: what the loss looks at, and what it does not."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from mailroom.corpus.example import Example
from mailroom.prompt.tokens import WeightedTokens, encode_example
from mailroom.taxonomy import Taxonomy

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


@dataclass(frozen=True, slots=True)
class Token:
    id: int
    text: str
    weight: float


@dataclass(frozen=True, slots=True)
class Position:
    """A place after the shift by one: what the model sees last, and what it is to say next."""

    input: Token
    target: Token

    @property
    def weight(self) -> float:
        """The target's: it decides whether the position counts."""
        return self.target.weight


@dataclass(frozen=True, slots=True)
class TokenPicture:
    tokens: tuple[Token, ...]

    @property
    def num_weighted(self) -> int:
        return sum(1 for token in self.tokens if token.weight)

    @property
    def positions(self) -> tuple[Position, ...]:
        """input = t[:-1], target = t[1:], weights = w[1:]."""
        return tuple(
            Position(before, after)
            for before, after in zip(self.tokens, self.tokens[1:], strict=False)
        )

    def around_the_seam(self, num_before: int = 4, num_after: int = 8) -> tuple[Position, ...]:
        """The positions where the prompt ends and the answer begins."""
        first = next((i for i, p in enumerate(self.positions) if p.weight), 0)
        return self.positions[max(0, first - num_before) : first + num_after]


def picture_of(
    example: Example,
    tokenizer: PreTrainedTokenizerBase,
    taxonomy: Taxonomy,
    max_prompt_tokens: int,
) -> TokenPicture:
    """The example exactly as training tokenizes it."""
    sequence = encode_example(
        example.message, example.completion, tokenizer, taxonomy, max_prompt_tokens
    )
    return TokenPicture(_tokens(sequence, tokenizer))


def _tokens(sequence: WeightedTokens, tokenizer: PreTrainedTokenizerBase) -> tuple[Token, ...]:
    return tuple(
        Token(token, text, weight)
        for token, text, weight in zip(
            sequence.tokens, _texts(sequence.tokens, tokenizer), sequence.weights, strict=True
        )
    )


def _texts(tokens: Sequence[int], tokenizer: PreTrainedTokenizerBase) -> list[str]:
    """Each token's own text. Parts of one character show as its replacement sign."""
    return [str(tokenizer.decode([token], skip_special_tokens=False)) for token in tokens]
