from __future__ import annotations

import numpy as np
import pytest
from tinsmith.domain.datum import Datum
from tinsmith.domain.ops import AdamParams, ForwardBackward, OptimStep, Sample, SamplingParams
from tinsmith.domain.request_size import RequestSize


def datum(length: int) -> Datum:
    return Datum(np.zeros(length, np.int32), {})


@pytest.mark.parametrize("forward_only", [False, True])
def test_a_batch_is_as_large_as_its_inputs(forward_only: bool):
    op = ForwardBackward((datum(3), datum(5)), "cross_entropy", forward_only=forward_only)

    assert RequestSize.of(op, 100) == RequestSize(tokens=8, datums=2, longest_sequence=5)


@pytest.mark.parametrize(
    ("max_tokens", "tokens", "longest"), [(2, 4 + 3 * 2, 6), (None, 4 + 3 * 6, 10), (99, 22, 10)]
)
def test_a_sample_is_as_large_as_its_answers_may_be(
    max_tokens: int | None, tokens: int, longest: int
):
    params = SamplingParams(max_tokens=max_tokens)
    op = Sample(np.zeros(4, np.int32), params, num_samples=3)

    assert RequestSize.of(op, 10) == RequestSize(tokens, 0, longest)


def test_what_reads_no_tokens_has_no_size():
    assert RequestSize.of(OptimStep(AdamParams()), 10) == RequestSize()
