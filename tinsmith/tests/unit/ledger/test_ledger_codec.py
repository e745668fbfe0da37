from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst
from tinsmith.domain import ops, outcomes
from tinsmith.domain.addresses import CheckpointAddress, CheckpointKind
from tinsmith.domain.datum import Datum
from tinsmith.domain.errors import StorageError
from tinsmith.domain.matrix import Matrix
from tinsmith.ledger.codec import MAGIC, VERSION, decode, encode


def array_of(dtype: str, ndim: int = 1):
    kind = np.dtype(dtype)
    elements = npst.from_dtype(kind, allow_nan=True) if kind.kind == "f" else None
    shape = npst.array_shapes(min_dims=ndim, max_dims=ndim, min_side=0, max_side=5)
    return npst.arrays(kind, shape, elements=elements)


texts = st.text(max_size=8)
numbers = st.floats(allow_nan=True, allow_infinity=True)
metadata = st.dictionaries(texts, texts, max_size=3)
seeds = st.integers(0, 2**63 - 1)
maybe_ttl = st.none() | st.integers(0, 10**9)
addresses = st.builds(
    CheckpointAddress,
    st.just("s:train:0"),
    st.sampled_from(CheckpointKind),
    st.from_regex(r"[A-Za-z0-9_-]{1,8}", fullmatch=True),
)
data = st.builds(
    Datum,
    array_of("int32"),
    st.dictionaries(texts, array_of("float32", 2) | array_of("int64") | array_of("float32")),
)
loras = st.builds(ops.LoraConfig, st.integers(1, 256), seeds, *[st.booleans()] * 3)
topks = st.builds(outcomes.TopK, array_of("int32", 2), array_of("float32", 2))
matrices = st.builds(Matrix, st.tuples(seeds, seeds), array_of("int64")) | st.builds(
    Matrix,
    st.tuples(seeds, seeds),
    array_of("float32"),
    array_of("int64"),
    array_of("int64"),
)
alternatives = st.builds(outcomes.AltTokens, array_of("int32", 2), array_of("float32", 2))
sequences = st.builds(
    outcomes.SampledSequence,
    array_of("int32"),
    array_of("float32"),
    st.sampled_from(outcomes.StopReason),
    st.none() | topks,
)
all_ops = st.one_of(
    st.builds(ops.CreateRun, texts, loras, metadata),
    st.builds(ops.CreateRunFromState, texts, addresses, st.booleans(), metadata),
    st.builds(
        ops.ForwardBackward,
        st.lists(data, max_size=3).map(tuple),
        texts,
        st.dictionaries(texts, numbers | texts, max_size=2),
        st.booleans(),
    ),
    st.builds(ops.OptimStep, st.builds(ops.AdamParams, *[numbers] * 6)),
    st.builds(ops.SaveState, addresses, st.booleans(), maybe_ttl, metadata),
    st.builds(ops.SaveForSampler, addresses, st.none() | texts, maybe_ttl, metadata),
    st.builds(ops.SaveExternal, addresses, maybe_ttl),
    st.builds(ops.LoadState, addresses, st.booleans()),
    st.just(ops.Release()),
    st.builds(
        ops.Sample,
        array_of("int32"),
        st.builds(
            ops.SamplingParams,
            st.none() | st.integers(1, 100),
            seeds,
            st.lists(st.integers(0, 9), max_size=2).map(tuple),
            st.lists(texts, max_size=2).map(tuple),
            st.booleans(),
            numbers,
            st.integers(-1, 9),
            numbers,
        ),
        st.integers(1, 4),
        st.booleans(),
        st.none() | st.integers(1, 4),
        st.integers(0, 4),
        st.integers(0, 4),
        st.none() | texts,
        st.none() | matrices,
        st.integers(0, 4),
    ),
)
results = st.one_of(
    st.builds(outcomes.RunCreated, texts),
    st.builds(
        outcomes.ForwardBackwardDone,
        st.lists(array_of("float32") | array_of("float32", 2), max_size=3).map(tuple),
        st.dictionaries(texts, numbers, max_size=2),
    ),
    st.builds(outcomes.StepDone, st.dictionaries(texts, numbers, max_size=2)),
    st.builds(outcomes.Saved, addresses, st.none() | texts),
    st.builds(outcomes.Loaded, texts, addresses),
    st.builds(outcomes.Released, texts),
    st.builds(
        outcomes.Sampled,
        st.lists(sequences, max_size=3).map(tuple),
        st.none() | array_of("float32"),
        st.none() | topks,
        st.integers(0, 9),
        st.none() | matrices,
        st.none() | alternatives,
    ),
)
all_outcomes = st.builds(outcomes.Succeeded, results) | st.builds(
    outcomes.Failed, st.sampled_from(outcomes.FailureCategory), texts
)


def same(left: object, right: object) -> bool:
    """Equal in type and content; arrays bit for bit, NaN equal to NaN."""
    if type(left) is not type(right):
        return False
    if isinstance(left, np.ndarray) and isinstance(right, np.ndarray):
        return (
            left.dtype == right.dtype
            and left.shape == right.shape
            and left.tobytes() == right.tobytes()
        )
    if dataclasses.is_dataclass(left):
        return all(
            same(getattr(left, f.name), getattr(right, f.name)) for f in dataclasses.fields(left)
        )
    if isinstance(left, dict) and isinstance(right, dict):
        return left.keys() == right.keys() and all(same(left[k], right[k]) for k in left)
    if isinstance(left, tuple) and isinstance(right, tuple):
        return len(left) == len(right) and all(map(same, left, right))
    if isinstance(left, float) and isinstance(right, float) and math.isnan(left):
        return math.isnan(right)
    return left == right


@settings(max_examples=150, deadline=None)
@given(all_ops | all_outcomes)
def test_what_was_encoded_comes_back_unchanged(value):
    assert same(decode(encode(value)), value)


@settings(max_examples=50, deadline=None)
@given(all_ops)
def test_equal_ops_have_equal_bytes(op):
    assert encode(decode(encode(op))) == encode(op)


def test_the_order_of_a_mapping_does_not_matter():
    weights, targets = np.ones(2, np.float32), np.zeros(2, np.int64)
    tokens = np.arange(2, dtype=np.int32)
    one = Datum(tokens, {"weights": weights, "target_tokens": targets})
    other = Datum(tokens, {"target_tokens": targets, "weights": weights})

    first = ops.ForwardBackward((one,), "cross_entropy")
    second = ops.ForwardBackward((other,), "cross_entropy")

    assert encode(first) == encode(second)


def test_signed_zero_and_the_bits_of_nan_survive():
    odd = np.array([-0.0, np.nan], np.float32)
    odd.view(np.uint32)[1] |= 0x123  # a NaN with a payload

    back = decode(encode(outcomes.Succeeded(outcomes.ForwardBackwardDone((odd,), {"x:sum": -0.0}))))

    assert back.result.logprobs[0].tobytes() == odd.tobytes()
    assert math.copysign(1.0, back.result.metrics["x:sum"]) == -1.0


def test_big_endian_and_strided_arrays_are_kept_by_value():
    tokens = np.arange(10, dtype=">i4")[::2]

    back = decode(encode(ops.Sample(tokens, ops.SamplingParams())))

    assert back.prompt.tolist() == [0, 2, 4, 6, 8]
    assert back.prompt.dtype == np.dtype("<i4")


def test_decoded_arrays_may_be_written_to():
    op = ops.Sample(np.arange(3, dtype=np.int32), ops.SamplingParams())

    decode(encode(op)).prompt[0] = 7


def test_arrays_of_objects_are_refused():
    with pytest.raises(TypeError, match="object"):
        encode(ops.Sample(np.array([{}]), ops.SamplingParams()))  # type: ignore[arg-type]


@pytest.mark.parametrize("cut", [0, 3, 7, 20, -1, -8])
def test_damaged_bytes_are_an_error_that_says_so(cut):
    whole = encode(ops.Sample(np.arange(64, dtype=np.int32), ops.SamplingParams()))

    with pytest.raises(StorageError, match="damaged"):
        decode(whole[:cut])


def test_a_newer_format_is_refused_by_its_number():
    whole = bytearray(encode(ops.Release()))
    whole[3] = VERSION + 1

    assert whole[:3] == MAGIC
    with pytest.raises(StorageError, match=f"format {VERSION + 1}"):
        decode(bytes(whole))


def test_a_field_that_was_not_there_yet_takes_its_default():
    old = encode(ops.SaveState(CheckpointAddress("r", CheckpointKind.TRAINING, "a")))
    without = old.replace(b',"ttl_s":null', b" " * len(b',"ttl_s":null'))

    assert without != old
    assert decode(without).ttl_s is None
