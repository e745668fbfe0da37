"""Requests that nobody wants any more leave the sampler, and the others don't notice."""

from __future__ import annotations

import numpy as np
from tinsmith.domain.ops import Sample, SamplingParams
from tinsmith.domain.outcomes import Sampled, Succeeded
from tinsmith.engine.base_model import BaseModel
from tinsmith.engine.sampler import Sampler


def ask(*prompt: int) -> Sample:
    params = SamplingParams(max_tokens=12, temperature=0.0, stop_at_eos=False)
    return Sample(np.asarray(prompt, np.int32), params, num_samples=2)


def finish(sampler: Sampler) -> dict[str, list[list[int]]]:
    found: dict[str, list[list[int]]] = {}
    while sampler.num_waiting or sampler.num_active:
        for request_id, outcome in sampler.step():
            assert isinstance(outcome, Succeeded) and isinstance(outcome.result, Sampled)
            found[request_id] = [one.tokens.tolist() for one in outcome.result.sequences]
    return found


def test_cancelled_requests_leave_and_the_others_answer_as_if_alone(tiny_qwen3: BaseModel) -> None:
    alone = Sampler(tiny_qwen3)
    alone.add("kept", ask(5, 6, 7), None)
    want = finish(alone)

    sampler = Sampler(tiny_qwen3, max_active_sequences=6)
    for name in ("first", "kept", "second"):
        sampler.add(name, ask(5, 6, 7) if name == "kept" else ask(9, 4), None)
    sampler.add("waiting", ask(3), None)
    for _ in range(4):
        sampler.step()
    assert (sampler.num_active, sampler.num_waiting) == (6, 1)
    sampler.cancel({"first", "second", "waiting", "unknown"})

    assert (sampler.num_active, sampler.num_waiting) == (2, 0)
    assert finish(sampler) == want
