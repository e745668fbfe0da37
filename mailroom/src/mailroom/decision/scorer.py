"""How likely each category is, by logprob: asked in as few requests as it takes.

Most categories part with their first token, so the likeliest next tokens after the stem that all
share, one request, hold the scores of nearly all. Whoever is missing there, or needs more than one
token, is scored by a request of its own; the numbers are the same either way.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import tinker

from mailroom.decision.calibration import calibrated
from mailroom.decision.closed_set import Candidate, normalised
from mailroom.decision.conversations import Conversation

TOP_K = 64
"""Likeliest next tokens to ask for."""
REFUSALS = (tinker.BadRequestError, tinker.UnprocessableEntityError, tinker.RequestFailedError)
"""How a service says that it does not give what was asked for."""


@dataclass(frozen=True, slots=True)
class Scored:
    probabilities: Mapping[str, float]
    """Category key -> probability within the closed set."""
    next_token: int | None
    """The likeliest token after the stem; None where the service does not tell."""


class Scorer:
    def __init__(
        self,
        client: tinker.SamplingClient,
        candidates: Sequence[Candidate],
        temperature: float = 1.0,
    ) -> None:
        """
        Args:
            temperature: what the scores are divided by, so that a probability means what it says.
        """
        self._client = client
        self._candidates = candidates
        self._temperature = temperature
        self._stem = candidates[0].tokens[: candidates[0].num_shared]
        self.gives_top_k = True
        """Whether to try the one request; off once a service has refused it."""

    def score(self, prompt: Sequence[int]) -> Conversation[Scored]:
        """What can be sent at once is sent at once."""
        in_top_k = [c for c in self._candidates if c.num_scored == 1] if self.gives_top_k else []
        after_stem = self._after_stem(prompt) if in_top_k else None
        alone = {c.key: self._alone(prompt, c) for c in self._candidates if c not in in_top_k}
        found: dict[int, float] = {}
        if after_stem is not None:
            try:
                response: tinker.SampleResponse = yield after_stem
                top = response.sequences[0].topk_logprobs
                found = dict(top[0]) if top and top[0] else {}
            except REFUSALS:
                self.gives_top_k = False
        missing = [c for c in self._candidates if c.num_scored > 1 or c.tokens[-1] not in found]
        alone |= {c.key: self._alone(prompt, c) for c in missing if c.key not in alone}
        logprobs = {}
        for candidate in self._candidates:
            if candidate in missing:
                scores = (yield alone[candidate.key])[-candidate.num_scored :]
                logprobs[candidate.key] = math.fsum(-math.inf if s is None else s for s in scores)
            else:
                logprobs[candidate.key] = found[candidate.tokens[-1]]
        return Scored(
            calibrated(normalised(logprobs), self._temperature),
            max(found, key=found.__getitem__, default=None),
        )

    def _after_stem(self, prompt: Sequence[int]) -> tinker.APIFuture[tinker.SampleResponse]:
        """The likeliest tokens behind what all candidates share."""
        return self._client.sample(
            prompt=tinker.ModelInput.from_ints([*prompt, *self._stem]),
            num_samples=1,
            # Temperature 1: the logprobs are the model's own, whatever a service scales.
            sampling_params=tinker.SamplingParams(max_tokens=1, temperature=1.0, seed=0),
            topk_sample_logprobs=TOP_K,
        )

    def _alone(
        self, prompt: Sequence[int], candidate: Candidate
    ) -> tinker.APIFuture[list[float | None]]:
        tokens = tinker.ModelInput.from_ints([*prompt, *candidate.tokens])
        return self._client.compute_logprobs(tokens, prompt_logprobs_last_n=candidate.num_scored)
