"""All answers that a taxonomy can give, as tokens: what a model that has learned it will write."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from mailroom.mail.message import Message
from mailroom.prompt.form import render_answer
from mailroom.prompt.tokens import completion_ids
from mailroom.taxonomy import NO_RULE, Answer, Taxonomy

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

MIN_OVERLAP = 4
"""Tokens; what has fewer in common goes on alike by chance."""


class KnownAnswers:
    def __init__(self, taxonomy: Taxonomy, tokenizer: PreTrainedTokenizerBase) -> None:
        """
        Raises:
            PromptError: the tokenizer cannot write them.
        """
        self._taxonomy = taxonomy
        self._tokens: dict[str, dict[Answer, tuple[int, ...]]] = {
            category.key: {
                answer: tuple(completion_ids(render_answer(taxonomy, answer), tokenizer))
                for answer in map(category.answer_by, (NO_RULE, *category.rules))
            }
            for category in taxonomy.categories
        }
        """Category key -> answer -> its tokens as training has them, the stopping one last."""

    def guess(
        self, known: Sequence[int], message: Message, ranking: Sequence[str]
    ) -> tuple[int, ...]:
        """How an answer to this message may go on that begins with `known`.

        As the answer goes on that begins so. Where none does, as the one goes on that has the
        longest stretch in common with the end of what is known: a model that has learned the form
        may still give one category's actions to another.

        Args:
            ranking: category keys, the likeliest first. Within a category the taxonomy's own answer
                to this message comes first, then those of its other rules.

        Returns:
            The tokens that come next; none if no answer has MIN_OVERLAP tokens in common.
        """
        best: tuple[int, ...] = ()
        longest = min(MIN_OVERLAP, len(known)) - 1
        for answer in self._by_likelihood(message, ranking):
            for place in range(len(answer)):
                overlap = _common_end(known, answer[:place])
                if overlap > longest:
                    best, longest = answer[place:], overlap
        return best

    def _by_likelihood(self, message: Message, ranking: Sequence[str]) -> Iterator[tuple[int, ...]]:
        for key in ranking:
            answers = self._tokens[key]
            yield answers[self._taxonomy.answer(key, message)]
            yield from answers.values()


def _common_end(one: Sequence[int], other: Sequence[int]) -> int:
    """Number of tokens at their ends that are the same in both."""
    length = 0
    for a, b in zip(reversed(one), reversed(other), strict=False):
        if a != b:
            break
        length += 1
    return length
