"""Messages in, predictions out: the SDK's sampling client asked in the form that was trained."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import tinker

from mailroom.decision.closed_set import Candidate, candidates
from mailroom.decision.prediction import Prediction
from mailroom.decision.scorer import Asked, Scorer
from mailroom.mail.message import Message
from mailroom.prompt.chat import MAX_PROMPT_TOKENS, render_prompt
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


@dataclass(frozen=True, slots=True)
class _Requests:
    """The requests that are under way for one message."""

    written: tinker.APIFuture[tinker.SampleResponse] | None
    scored: Asked | None


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
        wait: Wait = sdk_wait,
    ) -> None:
        """
        Args:
            max_prompt_tokens: the budget that training rendered prompts with.
            writes: whether to generate the four steps.
            scores: whether to score the categories; costs about one request for each mail.
            wait: how to wait for the service, e.g. `Service.wait`.
        """
        self.client = sampling_client
        self.tokenizer = tokenizer
        self._taxonomy = taxonomy
        self._max_prompt_tokens = max_prompt_tokens
        # The end that training taught, which need not be the one in the model's own settings.
        self._params = tinker.SamplingParams(
            max_tokens=max_new_tokens, temperature=0.0, stop=_end_tokens(tokenizer)
        )
        self._writes = writes
        self._wait = wait
        self.candidates = self._category_candidates()
        self._scorer = Scorer(sampling_client, self.candidates, wait) if scores else None

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
        asked: deque[_Requests] = deque()
        for message in messages:
            asked.append(self._ask(message))
            if len(asked) >= MESSAGES_IN_FLIGHT:
                yield self._read(asked.popleft())
        while asked:
            yield self._read(asked.popleft())

    def _ask(self, message: Message) -> _Requests:
        prompt = render_prompt(message, self.tokenizer, self._taxonomy, self._max_prompt_tokens)
        written = None
        if self._writes:
            written = self.client.sample(
                prompt=tinker.ModelInput.from_ints(prompt),
                num_samples=1,
                sampling_params=self._params,
            )
        scored = self._scorer.ask(prompt) if self._scorer is not None else None
        return _Requests(written, scored)

    def _read(self, asked: _Requests) -> Prediction:
        text, num_tokens, stopped, answer = "", 0, False, None
        if asked.written is not None:
            sequence = self._wait(asked.written).sequences[0]
            num_tokens, stopped = len(sequence.tokens), sequence.stop_reason == "stop"
            text = self._text_of(sequence.tokens)
            answer = parse_answer(text, self._taxonomy)
        probabilities = {}
        if self._scorer is not None and asked.scored is not None:
            probabilities = self._scorer.read(asked.scored)
        return Prediction(
            text=text,
            answer=answer,
            num_tokens=num_tokens,
            stopped=stopped,
            probabilities=probabilities,
        )

    def _text_of(self, tokens: Sequence[int]) -> str:
        ids = list(tokens)
        if ids and ids[-1] == self.tokenizer.eos_token_id:
            ids.pop()
        text = self.tokenizer.decode(ids, skip_special_tokens=False)
        assert isinstance(text, str)
        return text

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


def _end_tokens(tokenizer: PreTrainedTokenizerBase) -> list[int] | None:
    """None leaves the end to the service."""
    end = tokenizer.eos_token_id
    return [end] if isinstance(end, int) else None
