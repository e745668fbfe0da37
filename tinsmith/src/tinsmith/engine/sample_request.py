"""A sample op on its way through the sampler."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from tinsmith.domain.errors import InvalidInputError
from tinsmith.domain.ops import Sample
from tinsmith.domain.outcomes import Sampled, SampledSequence, StopReason, TopK
from tinsmith.domain.sampling_rules import check_sample
from tinsmith.engine.adapter import FrozenAdapter
from tinsmith.engine.base_model import BaseModel
from tinsmith.engine.prompt_scores import PromptScore, asks_prompt_scores, prompt_scores_of

DecodeText = Callable[[Sequence[int]], str]
"""Token ids -> text, special tokens included."""


class SampleRequest:
    """The op, what it still needs and what it has got so far."""

    def __init__(
        self,
        request_id: str,
        sample: Sample,
        adapter: FrozenAdapter | None,
        base: BaseModel,
        decode_text: DecodeText | None,
        owner: str = "",
        arrival: int = 0,
    ) -> None:
        """
        Args:
            owner: whose request it is; what is kept of prompts is shared between one owner's.
            arrival: its number in the order in which requests came.

        Raises:
            InvalidInputError: for the first thing that is wrong, naming the value.
        """
        check_sample(sample, base.limits)
        if sample.params.stop_strings and decode_text is None:
            raise InvalidInputError(
                "stop strings are not available here, as this model is served without a "
                "tokenizer; use stop token ids"
            )
        self.request_id = request_id
        self.owner = owner
        self.arrival = arrival
        self.sample = sample
        self.adapter = adapter
        self.max_new = _max_new_tokens(sample, base.context_limit)
        params = sample.params
        self.stop_ids = set(params.stop_tokens)
        if params.stop_at_eos:
            self.stop_ids.update(base.eos_token_ids)
        self.wants_prompt_scores = asks_prompt_scores(sample)
        """Whether something is asked of the prompt that has not been worked out yet."""
        self.num_cached = 0
        """Tokens of the prompt that its first sample found in the cache."""
        self._decode_text = decode_text
        self._sequences: dict[int, SampledSequence] = {}
        # A stop string of b bytes spans at most b tokens, and a token or two more may be needed
        # to decode its first character.
        longest = max((len(text.encode()) for text in params.stop_strings), default=0)
        self._tail_tokens = longest + 4

    @cached_property
    def prompt_scores(self) -> tuple[PromptScore, ...]:
        """What is asked of the prompt, as far as it has been filled in. Made when the request's
        turn comes, since a long queue of them would take much memory."""
        return prompt_scores_of(self.sample)

    @property
    def scored_from(self) -> int:
        """The first prompt position of which something is asked that has it scored."""
        return min(score.first for score in self.prompt_scores)

    def completes_stop_string(self, tokens: NDArray[np.int32]) -> bool:
        """Whether the end of the generated tokens holds a stop string."""
        if not self.sample.params.stop_strings:
            return False
        assert self._decode_text is not None
        text = self._decode_text(tokens[-self._tail_tokens :].tolist())
        return any(stop in text for stop in self.sample.params.stop_strings)

    def finish_sequence(
        self,
        number: int,
        tokens: NDArray[np.int32],
        logprobs: NDArray[np.float32],
        reason: StopReason,
        topk: TopK | None,
    ) -> Sampled | None:
        """Take in one finished sample; the request's result once all of them are."""
        self._sequences[number] = SampledSequence(tokens, logprobs, reason, topk)
        if len(self._sequences) < self.sample.num_samples:
            return None
        sequences = tuple(self._sequences[i] for i in range(self.sample.num_samples))
        scores = {score.field: score.result for score in self.prompt_scores}
        return Sampled(sequences, prompt_cache_hit_tokens=self.num_cached, **scores)


def _max_new_tokens(sample: Sample, context_limit: int) -> int:
    """At most what the context has room for; a prompt that fills it may still be scored, for
    which one token is generated that the model never has to read."""
    room = max(1, context_limit - len(sample.prompt))
    wanted = sample.params.max_tokens
    return room if wanted is None else min(wanted, room)
