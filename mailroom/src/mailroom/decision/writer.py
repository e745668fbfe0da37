"""A model's greedy answer, with as little generating as it takes.

Generating costs a pass through the weights for each token. What the model is about to write is
mostly known, though: the form's fixed parts, and a category's priority, actions and reply. So a
guess at the whole answer is sent behind the prompt, and one pass over it tells, for each of its
tokens, which one the model would have written there. As far as the two agree, the guess is the
greedy answer; the first token that differs is the model's own too, and from there it goes on with
another guess or, where none fits, by generating.

Method: Leviathan et al., "Fast Inference from Transformers via Speculative Decoding", 2023, for
temperature 0, with the taxonomy in the place of a small model.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import tinker

from mailroom.decision.conversations import Conversation
from mailroom.decision.known_answers import KnownAnswers
from mailroom.decision.scorer import REFUSALS
from mailroom.mail.message import Message

MAX_GUESSES = 5
"""For one answer: each is a request, and a model that departs from the form will go on to."""
NOT_TOLD = -99999.0
"""What the API puts in the place of a logprob that was not reckoned."""


@dataclass(frozen=True, slots=True)
class Written:
    tokens: tuple[int, ...]
    """The stopping one included."""
    stopped: bool
    """Whether the model ended by itself; otherwise the limit cut it off."""
    num_given: int = 0
    """Tokens that were guessed and found right, so that none of them had to be generated."""


class Writer:
    def __init__(
        self,
        client: tinker.SamplingClient,
        end_token: int | None,
        max_new_tokens: int,
        answers: KnownAnswers | None,
    ) -> None:
        """
        Args:
            end_token: the end that training taught, which need not be the one in the model's own
                settings. None leaves it to the service.
            answers: what to guess from; None generates every token.
        """
        self._client = client
        self._end = end_token
        self._max_new_tokens = max_new_tokens
        self.answers = answers
        self.gives_likeliest = True
        """Whether to try guesses; off once a service has refused to tell the likeliest tokens."""

    def generate(
        self, prompt: Sequence[int], known: Sequence[int] = ()
    ) -> tinker.APIFuture[tinker.SampleResponse]:
        """Ask for the whole answer, or for what comes after its beginning."""
        return self._client.sample(
            prompt=tinker.ModelInput.from_ints([*prompt, *known]),
            num_samples=1,
            sampling_params=self._greedy(self._max_new_tokens - len(known)),
        )

    def write(
        self, prompt: Sequence[int], message: Message, ranking: Sequence[str]
    ) -> Conversation[Written]:
        """
        Args:
            ranking: category keys to guess by, the likeliest first; none generates every token.
        """
        known: list[int] = []
        num_given = 0
        for _ in range(MAX_GUESSES):
            if not (rest := self._guess(known, message, ranking)):
                break
            own = yield from self._own_tokens([*prompt, *known], rest)
            if own is None:
                break
            num_agreed = next((i for i, token in enumerate(rest) if own[i] != token), len(rest))
            known += own[: num_agreed + 1]
            num_given += min(num_agreed, len(rest) - 1)  # the last one was generated
        if self._is_over(known):
            return Written(tuple(known), known[-1] == self._end, num_given)
        return self.read((yield self.generate(prompt, known)), known, num_given)

    def read(
        self, response: tinker.SampleResponse, known: Sequence[int] = (), num_given: int = 0
    ) -> Written:
        """The answer that `generate` came to."""
        sequence = response.sequences[0]
        return Written((*known, *sequence.tokens), sequence.stop_reason == "stop", num_given)

    def _guess(self, known: list[int], message: Message, ranking: Sequence[str]) -> list[int]:
        """How the answer may go on, two tokens at least; empty if there is nothing to try."""
        if self.answers is None or not self.gives_likeliest or self._is_over(known):
            return []
        guess = self.answers.guess(known, message, ranking)
        rest = list(guess[: self._max_new_tokens - len(known)])
        return rest if len(rest) > 1 else []

    def _is_over(self, known: list[int]) -> bool:
        return len(known) >= self._max_new_tokens or (bool(known) and known[-1] == self._end)

    def _own_tokens(
        self, prompt: Sequence[int], rest: Sequence[int]
    ) -> Conversation[list[int] | None]:
        """The token that the model would write at each place of `rest`, those before it given.

        None if the service does not tell.
        """
        try:
            response: tinker.SampleResponse = yield self._client.sample(
                prompt=tinker.ModelInput.from_ints([*prompt, *rest[:-1]]),
                num_samples=1,
                sampling_params=self._greedy(1),
                include_prompt_logprobs=True,
                prompt_logprobs_last_n=len(rest) - 1,
                topk_prompt_logprobs=1,
            )
        except (*REFUSALS, RuntimeError):  # the SDK's own for a service that scores all or nothing
            self.gives_likeliest = False
            return None
        likeliest = response.topk_prompt_logprobs_np
        num_asked = len(rest) - 1
        if likeliest is None or (likeliest.logprobs[-num_asked:, 0] <= NOT_TOLD).any():
            self.gives_likeliest = False
            return None
        own = likeliest.token_ids[-num_asked:, 0].tolist()
        return [*own, *response.sequences[0].tokens]

    def _greedy(self, max_tokens: int) -> tinker.SamplingParams:
        stop = None if self._end is None else [self._end]
        return tinker.SamplingParams(max_tokens=max_tokens, temperature=0.0, stop=stop)
