"""Bad sample requests are refused with the offending value and what is allowed."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from tinsmith.domain.errors import InvalidInputError
from tinsmith.domain.matrix import Matrix
from tinsmith.domain.model_limits import ModelLimits
from tinsmith.domain.ops import Sample, SamplingParams
from tinsmith.domain.sampling_rules import check_sample

LIMITS = ModelLimits(vocab_size=100, max_context=16)


def targets(ids: Any) -> Matrix:
    ids = np.array(ids, np.int64)
    return Matrix(ids.shape, ids.ravel())


NARROW = Matrix((1, 2**30), np.array([99]), np.array([0, 1]), np.array([2**29]))


def sample(prompt: Any = (1, 2), **changes: Any) -> Sample:
    params = {k: changes.pop(k) for k in list(changes) if k in SamplingParams.__slots__}
    return Sample(np.array(prompt, np.int32), SamplingParams(**params), **changes)


GOOD_SAMPLES = [
    sample(),
    sample([1] * 16, max_tokens=1),
    sample(max_tokens=10**6, temperature=0.0, top_k=1, top_p=1e-9),
    sample(stop_tokens=(0, 99), stop_strings=("\n",), num_samples=8),
    sample(prompt_logprobs=True, prompt_logprobs_last_n=1, topk_prompt_logprobs=20),
    sample(target_prompt_logprobs=targets([[-1, 99, -1]]), prompt_alt_tokens_k=100),
    sample(target_prompt_logprobs=NARROW),
]


@pytest.mark.parametrize("op", GOOD_SAMPLES, ids=range(len(GOOD_SAMPLES)))
def test_good_samples_pass(op: Sample):
    check_sample(op, LIMITS, max_num_samples=8)


BAD_SAMPLES = {
    "an empty prompt": (sample([]), "prompt is empty"),
    "a long prompt": (sample([1] * 17), "prompt has 17 tokens; the model's context holds 16"),
    "a prompt in two dimensions": (sample([[1, 2]]), r"prompt has shape \[1, 2\]"),
    "an unknown token": (sample([1, 100]), r"prompt\[1\] is token id 100; .* 0 to 99"),
    "no sample": (sample(num_samples=0), "num_samples 0 .* 1 to 8"),
    "too many samples": (sample(num_samples=9), "num_samples 9 .* 1 to 8"),
    "no tokens to make": (sample(max_tokens=0), "max_tokens 0"),
    "negative temperature": (sample(temperature=-0.1), "temperature -0.1"),
    "temperature NaN": (sample(temperature=float("nan")), "temperature nan"),
    "temperature infinite": (sample(temperature=float("inf")), "temperature inf"),
    "top_p 0": (sample(top_p=0.0), "top_p 0.0"),
    "top_p above 1": (sample(top_p=1.01), "top_p 1.01"),
    "top_p NaN": (sample(top_p=float("nan")), "top_p nan"),
    "top_k 0": (sample(top_k=0), "top_k 0 .* or -1"),
    "top_k -2": (sample(top_k=-2), "top_k -2"),
    "an empty stop": (sample(stop_strings=("a", "")), "stop string is empty"),
    "an unknown stop": (sample(stop_tokens=(100,)), r"stop\[0\] is token id 100"),
    "many stops": (sample(stop_strings=tuple("ab" * 40)), "80 stops"),
    "last_n 0": (sample(prompt_logprobs_last_n=0), "prompt_logprobs_last_n 0"),
    "topk negative": (sample(topk_prompt_logprobs=-1), "topk_prompt_logprobs -1 .* 0 to 100"),
    "too few rows": (
        sample([1, 2, 3], target_prompt_logprobs=targets([[5]])),
        "has 1 rows; it needs 2",
    ),
    "rows without end": (
        sample(target_prompt_logprobs=Matrix((2**31 - 1, 0), np.zeros(0, np.int64))),
        "2147483647 rows",
    ),
    "an unknown target": (
        sample([1, 2, 3], target_prompt_logprobs=targets([[1, -1], [2, 100]])),
        "token id 100 in row 1",
    ),
    "a target below": (sample(target_prompt_logprobs=targets([[-2]])), "-2 in row 0"),
    "no target": (sample(target_prompt_logprobs=targets([[-1]])), "names no token"),
    "draws negative": (sample(prompt_alt_tokens_k=-1), "prompt_alt_tokens_k -1 .* 0 to 100"),
    "topk above": (sample(topk_sample_logprobs=101), "topk_sample_logprobs 101 .* 0 to 100"),
}


@pytest.mark.parametrize(("op", "words"), BAD_SAMPLES.values(), ids=BAD_SAMPLES)
def test_bad_samples_are_told_what_is_wrong(op: Sample, words: str):
    with pytest.raises(InvalidInputError, match=words):
        check_sample(op, LIMITS, max_num_samples=8)


def test_without_a_bound_any_number_of_samples_passes():
    check_sample(sample(num_samples=10_000), LIMITS)
    with pytest.raises(InvalidInputError, match=r"num_samples 0 .* at least 1"):
        check_sample(sample(num_samples=0), LIMITS)
