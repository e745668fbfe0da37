"""Against the SDK's own encoder and decoder."""

import contextlib
import json
from dataclasses import replace

import numpy as np
import pytest
import tinker
from hypothesis import given
from hypothesis import strategies as st
from tinker._compat import model_dump
from tinker.proto.response_conv import deserialize_sample_response
from tinker.types.sample_request import SampleRequest
from tinsmith.api.wire.fields import Fields
from tinsmith.api.wire.sampling import read_sample, write_sample
from tinsmith.domain.errors import InvalidInputError
from tinsmith.domain.outcomes import AltTokens, Sampled, SampledSequence, StopReason, TopK

FIELDS = {
    "sampling_session_id": "s:sample:0",
    "seq_id": 1,
    "num_samples": 1,
    "prompt": {"chunks": []},
    "sampling_params": {"stop": None},
    "prompt_logprobs": True,
    "prompt_logprobs_last_n": 2,
    "topk_prompt_logprobs": 3,
    "target_prompt_logprobs": None,
    "prompt_alt_tokens_k": 2,
}
TARGETS = {"data": [1, -1, 2, 3], "dtype": "int64", "shape": [2, 2]}
SPARSE = {
    "data": [1, 3],
    "dtype": "int64",
    "shape": [2, 9],
    "sparse_crow_indices": [0, 1, 2],
    "sparse_col_indices": [4, 8],
}
any_json = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: (
        st.lists(inner)
        | st.dictionaries(st.text() | st.sampled_from(["chunks", "type", "tokens", "stop"]), inner)
    ),
    max_leaves=6,
)


def sent_by_the_sdk(params: dict | None = None, **changes) -> Fields:
    request = SampleRequest(
        sampling_session_id="s:sample:0",
        seq_id=191733668000000000,
        num_samples=2,
        prompt=tinker.ModelInput.from_ints([1, 2, 3]),
        sampling_params=tinker.SamplingParams(**(params or {})),
    )
    body = model_dump(request, exclude_unset=False, exclude_none=True, mode="json")
    return Fields.parse(json.dumps({**body, **changes}).encode())


def test_a_request_of_the_sdk_is_read_whole():
    request = read_sample(
        sent_by_the_sdk(
            {"max_tokens": 9, "seed": 5, "temperature": 0.5, "top_k": 7, "top_p": 0.9},
            prompt_logprobs=True,
            prompt_logprobs_last_n=2,
            topk_prompt_logprobs=3,
            topk_sample_logprobs=4,
        )
    )
    sample, params = request.sample, request.sample.params
    assert (request.sampler_id, request.seq_id) == ("s:sample:0", 191733668000000000)
    assert sample.prompt.tolist() == [1, 2, 3]
    assert sample.num_samples == 2
    assert (sample.prompt_logprobs, sample.prompt_logprobs_last_n) == (True, 2)
    assert (sample.topk_prompt_logprobs, sample.topk_sample_logprobs) == (3, 4)
    assert (params.max_tokens, request.seed, params.temperature) == (9, 5, 0.5)
    assert (params.top_k, params.top_p) == (7, 0.9)


@pytest.mark.parametrize(
    ("stop", "read"),
    [
        (None, (True, (), ())),
        ([], (False, (), ())),
        ("\n\nUser:", (True, (), ("\n\nUser:",))),
        (["a", "b"], (True, (), ("a", "b"))),
        ([2, 0], (True, (2, 0), ())),
    ],
)
def test_stops_come_in_four_forms(stop, read):
    params = read_sample(sent_by_the_sdk({"stop": stop})).sample.params
    assert (params.stop_at_eos, params.stop_tokens, params.stop_strings) == read


def test_targets_come_dense_or_as_sparse_rows():
    dense = read_sample(sent_by_the_sdk(target_prompt_logprobs=TARGETS)).sample
    assert dense.target_prompt_logprobs is not None
    assert dense.target_prompt_logprobs.shape == (2, 2)
    assert dense.target_prompt_logprobs.values.tolist() == [1, -1, 2, 3]
    assert dense.target_prompt_logprobs.rows.tolist() == [0, 0, 1, 1]
    assert dense.target_prompt_logprobs.row_starts is None

    sparse = read_sample(sent_by_the_sdk(target_prompt_logprobs=SPARSE)).sample
    assert sparse.target_prompt_logprobs is not None
    assert sparse.target_prompt_logprobs.shape == (2, 9)
    assert sparse.target_prompt_logprobs.values.tolist() == [1, 3]
    assert sparse.target_prompt_logprobs.rows.tolist() == [0, 1]
    assert sparse.target_prompt_logprobs.columns is not None
    assert sparse.target_prompt_logprobs.columns.tolist() == [4, 8]


@pytest.mark.parametrize("layout", [TARGETS, SPARSE], ids=["dense", "sparse"])
def test_the_sdk_reads_targets_and_draws_in_the_layout_that_was_asked_for(layout):
    targets = read_sample(sent_by_the_sdk(target_prompt_logprobs=layout)).sample
    assert targets.target_prompt_logprobs is not None
    scored = replace(
        targets.target_prompt_logprobs,
        values=np.arange(len(layout["data"]), dtype=np.float32) / 2,
    )
    draws = AltTokens(np.asarray([[7, 8]], np.int32), np.asarray([[-1.0, -2.0]], np.float32))
    response = deserialize_sample_response(
        write_sample(Sampled((), target_prompt_logprobs=scored, prompt_alt_tokens=draws))
    )
    told = response.target_prompt_logprobs
    assert told is not None and response.prompt_alt_tokens is not None
    assert (told.dtype, told.shape, told.data) == ("float32", layout["shape"], list(scored.values))
    assert told.sparse_crow_indices == layout.get("sparse_crow_indices")
    assert told.sparse_col_indices == layout.get("sparse_col_indices")
    tokens, logprobs = response.prompt_alt_tokens.tokens, response.prompt_alt_tokens.logprobs
    assert (tokens.dtype, tokens.to_numpy().tolist()) == ("int64", [[7, 8]])
    assert (logprobs.dtype, logprobs.to_numpy().tolist()) == ("float32", [[-1.0, -2.0]])


def test_whether_the_client_gave_a_seed_is_told():
    assert read_sample(sent_by_the_sdk({"seed": 0})).seed == 0
    assert read_sample(sent_by_the_sdk()).seed is None


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"prompt": {"chunks": [{"type": "image", "data": "aGk=", "format": "png"}]}}, "'image'"),
        ({"prompt": {"chunks": ["text"]}}, "prompt chunk 0"),
        ({"prompt": {"chunks": [{"type": "encoded_text", "tokens": [1, -1]}]}}, "tokens"),
        ({"prompt": {"chunks": [{"type": "encoded_text", "tokens": [2**31]}]}}, "tokens"),
        ({"prompt": {"chunks": [{"type": "encoded_text", "tokens": [True]}]}}, "tokens"),
        ({"prompt": {"chunks": [{"type": "encoded_text", "tokens": "ab"}]}}, "tokens"),
        ({"prompt": None}, "prompt"),
        ({"sampling_session_id": None}, "sampling_session_id"),
        ({"seq_id": None}, "seq_id"),
        ({"seq_id": 2**63}, "seq_id"),
        ({"target_prompt_logprobs": [1]}, "target_prompt_logprobs must be an object"),
        ({"target_prompt_logprobs": {"data": [1], "dtype": "int64"}}, "shape is missing"),
        ({"target_prompt_logprobs": {**TARGETS, "dtype": "float32"}}, "dtype"),
        ({"target_prompt_logprobs": {**TARGETS, "shape": [2]}}, "two sizes"),
        ({"target_prompt_logprobs": {**TARGETS, "shape": [2, -2]}}, "two sizes"),
        ({"target_prompt_logprobs": {**TARGETS, "data": [1, 2, 3]}}, r"not shape \[2, 2\]"),
        ({"target_prompt_logprobs": {**TARGETS, "data": [1, 2, 3, 4.5]}}, "data"),
        ({"target_prompt_logprobs": {**TARGETS, "data": [1, 2, 3, 2**31]}}, "data"),
        ({"target_prompt_logprobs": {**TARGETS, "sparse_crow_indices": [0]}}, "sparse_col"),
        ({"target_prompt_logprobs": {**SPARSE, "sparse_crow_indices": [0, 2, 1]}}, "crow"),
        ({"target_prompt_logprobs": {**SPARSE, "sparse_col_indices": [0, 9]}}, "col_indices"),
        ({"prompt_alt_tokens_k": "two"}, "prompt_alt_tokens_k"),
        ({"sampling_params": {"stop": ["a", 1]}}, "sampling_params.stop"),
        ({"sampling_params": {"stop": ""}}, "sampling_params.stop"),
        ({"sampling_params": {"stop": 3}}, "sampling_params.stop"),
        ({"sampling_params": {"stop": "\ud800"}}, "sampling_params.stop"),
        ({"sampling_params": {"temperature": "hot"}}, "sampling_params.temperature"),
        ({"num_samples": 1.5}, "num_samples"),
    ],
)
def test_what_is_refused_is_named(changes, named):
    with pytest.raises(InvalidInputError, match=named):
        read_sample(sent_by_the_sdk(**changes))


@given(st.sampled_from(sorted(FIELDS)), any_json)
def test_a_field_of_any_value_is_read_or_refused(field, value):
    body = json.dumps({**FIELDS, field: value}).encode()
    with contextlib.suppress(InvalidInputError):
        read_sample(Fields.parse(body))


def test_the_sdk_reads_our_answer():
    sampled = Sampled(
        sequences=(
            SampledSequence(
                tokens=np.asarray([4, 5], np.int32),
                logprobs=np.asarray([-0.5, -0.25], np.float32),
                stop_reason=StopReason.LENGTH,
                topk=TopK(
                    np.asarray([[4, 9], [5, 8]], np.int32),
                    np.asarray([[-0.5, -1.0], [-0.25, -2.0]], np.float32),
                ),
            ),
            SampledSequence(
                tokens=np.asarray([6], np.int32),
                logprobs=np.asarray([-0.125], np.float32),
                stop_reason=StopReason.STOP,
            ),
        ),
        prompt_logprobs=np.asarray([np.nan, -1.0, -2.0], np.float32),
        topk_prompt_logprobs=TopK(
            np.asarray([[0], [2], [3]], np.int32),
            np.asarray([[-99999.0], [-1.0], [-2.0]], np.float32),
        ),
        prompt_cache_hit_tokens=3,
    )
    response = deserialize_sample_response(write_sample(sampled))
    first, second = response.sequences
    assert (first.stop_reason, second.stop_reason) == ("length", "stop")
    assert first.tokens == [4, 5]
    assert first.logprobs == [-0.5, -0.25]
    assert first.topk_logprobs == [[(4, -0.5), (9, -1.0)], [(5, -0.25), (8, -2.0)]]
    assert second.topk_logprobs is None
    assert response.prompt_logprobs == [None, -1.0, -2.0]
    assert response.topk_prompt_logprobs == [None, [(2, -1.0)], [(3, -2.0)]]
    assert response.prompt_cache_hit_tokens == 3
