"""Messages in, predictions out: the SDK's sampling client asked in the form that was trained."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TYPE_CHECKING

import tinker

from mailroom.decision.closed_set import Candidate, candidates
from mailroom.decision.conversations import Conversation, in_order
from mailroom.decision.known_answers import KnownAnswers
from mailroom.decision.prediction import Prediction
from mailroom.decision.scorer import Scored, Scorer
from mailroom.decision.writer import Writer, Written
from mailroom.mail.message import Message
from mailroom.prompt.chat import MAX_PROMPT_TOKENS, PromptError, render_prompt
from mailroom.prompt.form import STEPS, category_prefix, parse_answer
from mailroom.prompt.plain_text import encode_plain
from mailroom.service.connect import Wait, sdk_wait
from mailroom.taxonomy import Taxonomy

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

MAX_NEW_TOKENS = 160
"""Room for the longest answer of the four-step form; a shorter limit would cut it off."""
MESSAGES_IN_FLIGHT = 128
"""Messages whose requests are with the service at the same time."""


class Predictor:
    """Predicts with one set of weights, for one taxonomy."""

    def __init__(
        self,
        sampling_client: tinker.SamplingClient,
        tokenizer: PreTrainedTokenizerBase,
        taxonomy: Taxonomy,
        *,
        max_prompt_tokens: int = MAX_PROMPT_TOKENS,
        max_new_tokens: int = MAX_NEW_TOKENS,
        writes: bool = True,
        scores: bool = True,
        free: bool = False,
        temperature: float = 1.0,
        wait: Wait = sdk_wait,
    ) -> None:
        """
        Args:
            max_prompt_tokens: the budget that training rendered prompts with.
            writes: whether to write the four steps.
            scores: whether to score the categories; costs about one request for each mail.
            free: whether to generate every token of an answer. Otherwise, where categories are
                scored, the likeliest one's answer is guessed and only what differs is generated:
                the same text in a fraction of the time, once the model has learned the form.
            temperature: the run's, by which probabilities are calibrated.
            wait: how to wait for the service, e.g. `Service.wait`.
        """
        self.client = sampling_client
        self.tokenizer = tokenizer
        self._taxonomy = taxonomy
        self._max_prompt_tokens = max_prompt_tokens
        self._writes = writes
        self._wait = wait
        self.candidates = self._category_candidates()
        self._scorer = Scorer(sampling_client, self.candidates, temperature) if scores else None
        end = tokenizer.eos_token_id
        self._end = end if isinstance(end, int) else None
        answers = self._known_answers() if scores and not free else None
        self._writer = Writer(sampling_client, self._end, max_new_tokens, answers)

    def predict(
        self,
        messages: Sequence[Message],
        on_done: Callable[[int], None] = lambda num_done: None,
    ) -> list[Prediction]:
        """Predictions in the order of the messages; `on_done` hears how many are ready."""
        predictions = []
        for prediction in self.stream(messages):
            predictions.append(prediction)
            on_done(len(predictions))
        return predictions

    def stream(self, messages: Iterable[Message]) -> Iterator[Prediction]:
        """Predictions as they come, in order, with many requests in flight at once."""
        return in_order(map(self._predicted, messages), self._wait, MESSAGES_IN_FLIGHT)

    def _predicted(self, message: Message) -> Conversation[Prediction]:
        """First the category, which says what to expect of the text."""
        prompt = render_prompt(message, self.tokenizer, self._taxonomy, self._max_prompt_tokens)
        generating = None
        if self._writes and self._writer.answers is None:
            generating = self._writer.generate(prompt)  # need not wait for the category
        scored = None
        if self._scorer is not None:
            scored = yield from self._scorer.score(prompt)
        written = Written((), False)
        if generating is not None:
            written = self._writer.read((yield generating))
        elif self._writes:
            written = yield from self._writer.write(prompt, message, self._ranking(scored))
        text = self._text_of(written.tokens)
        return Prediction(
            text=text,
            answer=parse_answer(text, self._taxonomy),
            num_tokens=len(written.tokens),
            stopped=written.stopped,
            probabilities=scored.probabilities if scored is not None else {},
            num_given=written.num_given,
        )

    def _ranking(self, scored: Scored | None) -> list[str]:
        """Categories by what the model thinks of them; none if it would name none of them, so that
        a guess at the answer is not worth its request."""
        if scored is None:
            return []
        first_tokens = {candidate.tokens[candidate.num_shared] for candidate in self.candidates}
        if scored.next_token is not None and scored.next_token not in first_tokens:
            return []
        return sorted(scored.probabilities, key=lambda key: -scored.probabilities[key])

    def _text_of(self, tokens: Sequence[int]) -> str:
        ids = list(tokens)
        if ids and ids[-1] == self._end:
            ids.pop()
        text = self.tokenizer.decode(ids, skip_special_tokens=False)
        assert isinstance(text, str)
        return text

    def _known_answers(self) -> KnownAnswers | None:
        """None where the tokenizer cannot write them: so the model will not either."""
        try:
            return KnownAnswers(self._taxonomy, self.tokenizer)
        except PromptError:
            return None

    def _category_candidates(self) -> tuple[Candidate, ...]:
        """Each category's first line as training tokenizes it, the next line's beginning after it:
        what follows a label can change how its end is tokenized."""
        return candidates(
            {
                category.key: encode_plain(
                    category_prefix(category) + STEPS[1].rstrip(), self.tokenizer
                )
                for category in self._taxonomy.categories
            }
        )
