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

from mailroom.decision.closed_set import Candidate, normalised
from mailroom.service.connect import Wait

TOP_K = 64
"""Likeliest next tokens to ask for."""


@dataclass(frozen=True, slots=True)
class Asked:
    """What is under way for one message."""

    prompt: Sequence[int]
    after_stem: tinker.APIFuture[tinker.SampleResponse] | None
    alone: Mapping[str, tinker.APIFuture[list[float | None]]]


class Scorer:
    def __init__(
        self, client: tinker.SamplingClient, candidates: Sequence[Candidate], wait: Wait
    ) -> None:
        self._client = client
        self._candidates = candidates
        self._wait = wait
        self._stem = candidates[0].tokens[: candidates[0].num_shared]
        self.gives_top_k = True
        """Whether to try the one request; off once a service has refused it."""

    def ask(self, prompt: Sequence[int]) -> Asked:
        """Send what can be sent at once; `read` waits."""
        in_top_k = [c for c in self._candidates if c.num_scored == 1] if self.gives_top_k else []
        alone = [c for c in self._candidates if c not in in_top_k]
        after_stem = None
        if in_top_k:
            after_stem = self._client.sample(
                prompt=tinker.ModelInput.from_ints([*prompt, *self._stem]),
                num_samples=1,
                # Temperature 1: the logprobs are the model's own, whatever a service scales.
                sampling_params=tinker.SamplingParams(max_tokens=1, temperature=1.0, seed=0),
                topk_sample_logprobs=TOP_K,
            )
        return Asked(prompt, after_stem, {c.key: self._score(prompt, c) for c in alone})

    def read(self, asked: Asked) -> dict[str, float]:
        """Category key -> probability within the closed set."""
        found = self._likeliest_tokens(asked)
        logprobs = {
            candidate.key: found[candidate.tokens[-1]]
            for candidate in self._candidates
            if candidate.num_scored == 1 and candidate.tokens[-1] in found
        }
        missing = [c for c in self._candidates if c.key not in logprobs]
        alone = {c.key: asked.alone.get(c.key) or self._score(asked.prompt, c) for c in missing}
        for candidate in missing:
            scores = self._wait(alone[candidate.key])[-candidate.num_scored :]
            logprobs[candidate.key] = math.fsum(-math.inf if s is None else s for s in scores)
        return normalised({c.key: logprobs[c.key] for c in self._candidates})

    def _likeliest_tokens(self, asked: Asked) -> dict[int, float]:
        """Token -> logprob after the stem; empty where the service does not give them."""
        if asked.after_stem is None:
            return {}
        try:
            top = self._wait(asked.after_stem).sequences[0].topk_logprobs
        except (tinker.BadRequestError, tinker.UnprocessableEntityError, tinker.RequestFailedError):
            self.gives_top_k = False
            return {}
        return dict(top[0]) if top and top[0] else {}

    def _score(
        self, prompt: Sequence[int], candidate: Candidate
    ) -> tinker.APIFuture[list[float | None]]:
        tokens = tinker.ModelInput.from_ints([*prompt, *candidate.tokens])
        return self._client.compute_logprobs(tokens, prompt_logprobs_last_n=candidate.num_scored)
