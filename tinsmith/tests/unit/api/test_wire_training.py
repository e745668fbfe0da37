"""Against the SDK's own encoder and decoder."""

import contextlib

import numpy as np
import pytest
import tinker
import torch
from hypothesis import given
from hypothesis import strategies as st
from tinker.proto.request_conv import forward_backward_request_to_proto
from tinker.proto.response_conv import deserialize_forward_backward_output
from tinker.types.forward_backward_input import ForwardBackwardInput
from tinker.types.forward_backward_request import ForwardBackwardRequest
from tinsmith.api.wire import tinsmith_wire_pb2 as pb
from tinsmith.api.wire.fields import Fields
from tinsmith.api.wire.training import (
    Place,
    parse_forward_backward,
    read_create_model,
    read_forward_backward,
    read_optim_step,
    write_forward_backward,
)
from tinsmith.domain.errors import InvalidInputError
from tinsmith.domain.ops import ForwardBackward
from tinsmith.domain.outcomes import ForwardBackwardDone

PLENTY = 2**30


def sent_by_the_sdk(data, loss_fn="cross_entropy", config=None, **changes) -> bytes:
    request = ForwardBackwardRequest(
        forward_backward_input=ForwardBackwardInput(
            data=data, loss_fn=loss_fn, loss_fn_config=config
        ),
        model_id="s:train:0",
        seq_id=7,
    )
    message = forward_backward_request_to_proto(request)
    for name, value in changes.items():
        setattr(message, name, value)
    return message.SerializeToString()


def read(body: bytes) -> ForwardBackward:
    return read_forward_backward(parse_forward_backward(body)[1], PLENTY)


def test_a_request_of_the_sdk_becomes_the_same_datums():
    datum = tinker.Datum(
        model_input=tinker.ModelInput(
            chunks=[
                tinker.EncodedTextChunk(tokens=[5, 6]),
                tinker.EncodedTextChunk(tokens=[7]),
            ]
        ),
        loss_fn_inputs={"target_tokens": [6, 7, 8], "weights": [0.0, 0.5, -1.0]},
    )
    body = sent_by_the_sdk([datum], config={"beta": 0.05, "mode": "fast"}, forward_only=True)
    place, message = parse_forward_backward(body)
    op = read_forward_backward(message, PLENTY)
    assert place == Place("s:train:0", 7)
    assert op.loss_fn == "cross_entropy"
    assert op.loss_fn_config == {"beta": 0.05, "mode": "fast"}
    assert op.forward_only
    assert op.data[0].tokens.tolist() == [5, 6, 7]
    assert op.data[0].tokens.dtype == np.int32
    np.testing.assert_array_equal(op.data[0].loss_fn_inputs["target_tokens"], [6, 7, 8])
    np.testing.assert_array_equal(
        op.data[0].loss_fn_inputs["weights"], np.asarray([0.0, 0.5, -1.0], np.float32)
    )


def test_sparse_targets_of_the_sdk_come_out_dense_with_token_0_where_nothing_was_listed():
    targets = torch.zeros(40, 8, dtype=torch.int64)
    weights = torch.zeros(40, 8)
    targets[3, 5], weights[3, 5], weights[4, 0] = 17, 0.25, 0.75
    datum = tinker.Datum(
        model_input=tinker.ModelInput.from_ints([1] * 40),
        loss_fn_inputs={"target_tokens": targets, "weights": weights},  # type: ignore[dict-item]
    )
    body = sent_by_the_sdk([datum])
    assert (
        pb.ForwardBackwardRequest.FromString(body)
        .data[0]
        .loss_fn_inputs["target_tokens"]
        .HasField("sparse_csr")
    )
    inputs = read(body).data[0].loss_fn_inputs
    np.testing.assert_array_equal(inputs["target_tokens"], targets.numpy())
    np.testing.assert_array_equal(inputs["weights"], weights.numpy())


def test_sparse_tensors_that_would_fill_the_memory_are_refused_unexpanded():
    message = pb.ForwardBackwardRequest(model_id="r", seq_id=1)
    tensor = message.data.add().loss_fn_inputs["weights"]
    tensor.sparse_csr.crow_indices = bytes(8 * 1001)
    tensor.dtype = pb.DTYPE_FLOAT32
    tensor.shape.extend([1000, 10**9])
    with pytest.raises(InvalidInputError, match="4000000000000 bytes when expanded"):
        read_forward_backward(message, PLENTY)


def test_chunks_other_than_text_are_refused_by_name():
    image = tinker.types.ImageChunk(data=b"\x89PNG", format="png", expected_tokens=1)
    datum = tinker.Datum(model_input=tinker.ModelInput(chunks=[image]), loss_fn_inputs={})
    with pytest.raises(InvalidInputError, match="datum 0: image chunks are not supported"):
        read(sent_by_the_sdk([datum]))


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"garbage \xff\xff\xff",
        b'{"model_id": "a"}',
        sent_by_the_sdk([], seq_id=0),
        sent_by_the_sdk([], seq_id=-1),
        sent_by_the_sdk([], model_id=""),
        sent_by_the_sdk([])[:-1],
    ],
)
def test_a_body_without_a_readable_place_is_refused(body):
    with pytest.raises(InvalidInputError):
        parse_forward_backward(body)


@given(st.binary(max_size=100))
def test_any_bytes_are_read_or_refused(body):
    with contextlib.suppress(InvalidInputError):
        read(body)


@given(st.data())
def test_a_damaged_request_is_read_or_refused(data):
    targets = torch.zeros(12, 4, dtype=torch.int64)
    targets[3, 2] = 7
    datum = tinker.Datum(
        model_input=tinker.ModelInput.from_ints([1] * 12),
        loss_fn_inputs={"target_tokens": targets, "weights": [0.5] * 12},  # type: ignore[dict-item]
    )
    body = bytearray(sent_by_the_sdk([datum], config={"beta": 1.0}))
    for _ in range(data.draw(st.integers(1, 4))):
        body[data.draw(st.integers(0, len(body) - 1))] = data.draw(st.integers(0, 255))
    with contextlib.suppress(InvalidInputError):
        read(bytes(body))


def test_results_keep_the_request_order_over_changes_of_shape():
    logprobs = (
        np.asarray([-1.0, -2.0], np.float32),
        np.asarray([-3.0], np.float32),
        np.asarray([[-1.0, -2.0, -3.0], [-4.0, -5.0, -6.0]], np.float32),
        np.asarray([-7.0], np.float32),
    )
    done = ForwardBackwardDone(logprobs=logprobs, metrics={"loss:sum": 12.5})
    output = deserialize_forward_backward_output(write_forward_backward(done))
    assert output.metrics == {"loss:sum": 12.5}
    assert len(output.loss_fn_outputs) == 4
    for sent, got in zip(logprobs, output.loss_fn_outputs, strict=True):
        np.testing.assert_array_equal(got["logprobs"].to_numpy().reshape(sent.shape), sent)
        assert got["logprobs"].shape == list(sent.shape)


def create_model(**changes) -> Fields:
    body = {
        "session_id": "s",
        "model_seq_id": 0,
        "base_model": "m",
        "lora_config": {"rank": 8, "seed": 3, "train_unembed": False},
        "optimizer_config": {"type": "adamw"},
    }
    return Fields({**body, **changes})


def test_create_model_reads_rank_seed_and_switches():
    new = read_create_model(create_model(user_metadata={"a": "b"}))
    assert (new.rank, new.seed) == (8, 3)
    assert (new.train_attn, new.train_mlp, new.train_unembed) == (True, True, False)
    assert new.user_metadata == {"a": "b"}


def test_create_model_has_the_sdks_defaults():
    new = read_create_model(create_model(lora_config=None, optimizer_config=None))
    assert (new.rank, new.seed) == (32, None)
    assert (new.train_attn, new.train_mlp, new.train_unembed) == (True, True, True)


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"optimizer_config": {"type": "dimuon", "version": 1}}, "dimuon"),
        ({"base_model": None}, "base_model"),
        ({"model_seq_id": -1}, "model_seq_id"),
        ({"lora_config": {"rank": "8"}}, "lora_config.rank"),
        ({"lora_config": {"train_mlp": 1}}, "lora_config.train_mlp"),
        ({"user_metadata": {"a": 1}}, "user_metadata"),
    ],
)
def test_create_model_names_what_it_refuses(changes, named):
    with pytest.raises(InvalidInputError, match=named):
        read_create_model(create_model(**changes))


def test_optim_step_reads_every_parameter_the_sdk_sends():
    params = tinker.AdamParams(
        learning_rate=3e-4, beta1=0.8, beta2=0.9, eps=1e-8, weight_decay=0.1, grad_clip_norm=2.0
    )
    adam = read_optim_step(Fields({"adam_params": params.model_dump()})).adam
    assert {name: getattr(adam, name) for name in params.model_dump()} == params.model_dump()


@pytest.mark.parametrize(
    "body",
    [
        {},
        {"adam_params": [1]},
        {"adam_params": {"learning_rate": "fast"}},
        {"optimizer_params": {"type": "dimuon", "learning_rate": 0.1}},
    ],
)
def test_optim_step_refuses_what_is_not_adam(body):
    with pytest.raises(InvalidInputError, match=r"adam_params|AdamW"):
        read_optim_step(Fields(body))
