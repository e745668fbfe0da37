"""Training calls <-> ops and their outcomes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import groupby

import numpy as np
from google.protobuf.message import DecodeError

from tinsmith.api.wire import tinsmith_wire_pb2 as pb
from tinsmith.api.wire.fields import Fields, is_storable
from tinsmith.api.wire.tensors import batch_arrays, expanded_bytes, read_tensor, read_tokens
from tinsmith.domain.datum import Datum
from tinsmith.domain.errors import InvalidInputError
from tinsmith.domain.ops import AdamParams, ForwardBackward, OptimStep
from tinsmith.domain.outcomes import ForwardBackwardDone

ADAMW = "adamw"
ARRAY_RECORD = "ArrayRecord"


@dataclass(frozen=True, slots=True)
class Place:
    """Where in which run's log an op belongs."""

    run_id: str
    seq_id: int


@dataclass(frozen=True, slots=True)
class NewRun:
    session_id: str
    model_seq_id: int
    base_model: str
    rank: int
    seed: int | None
    train_attn: bool
    train_mlp: bool
    train_unembed: bool
    user_metadata: Mapping[str, str] = field(default_factory=dict)


def read_create_model(fields: Fields) -> NewRun:
    check_optimizer(fields)
    lora = fields.object_or("lora_config", Fields({}, "lora_config."))
    return NewRun(
        session_id=fields.text("session_id"),
        model_seq_id=fields.integer("model_seq_id"),
        base_model=fields.text("base_model"),
        rank=lora.integer_or("rank", 32, low=-(2**63)),
        seed=lora.integer_or("seed", None, low=-(2**63)),
        train_attn=lora.flag_or("train_attn", True),
        train_mlp=lora.flag_or("train_mlp", True),
        train_unembed=lora.flag_or("train_unembed", True),
        user_metadata=fields.metadata("user_metadata"),
    )


def check_optimizer(fields: Fields) -> None:
    """Raises InvalidInputError unless the run's optimizer is AdamW."""
    config = fields.object_or("optimizer_config", Fields({}))
    family = config.text_or("type", ADAMW)
    if family != ADAMW:
        raise InvalidInputError(
            f"optimizer_config.type {family!r} is not supported by this server; use {ADAMW!r}"
        )


def read_place(fields: Fields) -> Place:
    return Place(fields.text("model_id"), fields.integer("seq_id", low=1))


def read_optim_step(fields: Fields) -> OptimStep:
    """Raises InvalidInputError for another optimizer's parameters; ranges are not checked here."""
    if fields.has("optimizer_params"):
        raise InvalidInputError(
            "optimizer_params are not supported by this server: its runs train with AdamW, "
            "which takes adam_params"
        )
    params = fields.object_or("adam_params", None)
    if params is None:
        raise fields.refuse("adam_params", "an object")
    defaults = AdamParams()
    names = ("learning_rate", "beta1", "beta2", "eps", "weight_decay", "grad_clip_norm")
    return OptimStep(AdamParams(*(params.number_or(n, getattr(defaults, n)) for n in names)))


def parse_forward_backward(body: bytes) -> tuple[Place, pb.ForwardBackwardRequest]:
    """The message, and where its op belongs.

    Raises:
        InvalidInputError: not such a message, or its place cannot be read.
    """
    message = pb.ForwardBackwardRequest()
    try:
        message.ParseFromString(body)
    except DecodeError as error:
        raise InvalidInputError(
            "the body is not a readable protobuf ForwardBackwardRequest (this server speaks the "
            "protocol of tinker 0.38)"
        ) from error
    if not message.model_id or not is_storable(message.model_id):
        raise InvalidInputError("model_id is missing; it must be the run's id")
    if message.seq_id < 1:
        raise InvalidInputError(f"seq_id must be 1 or more, got {message.seq_id}")
    return Place(message.model_id, message.seq_id), message


def read_forward_backward(message: pb.ForwardBackwardRequest, max_bytes: int) -> ForwardBackward:
    """The op that a parsed message asks for.

    Raises:
        InvalidInputError: a chunk other than text, or a tensor that makes no sense, or tensors
            that would take more than max_bytes once expanded.
    """
    num_bytes = sum(
        expanded_bytes(tensor) for datum in message.data for tensor in datum.loss_fn_inputs.values()
    )
    if num_bytes > max_bytes:
        raise InvalidInputError(
            f"the sparse tensors take {num_bytes} bytes when expanded; at most {max_bytes} are "
            "allowed per request"
        )
    return ForwardBackward(
        data=tuple(_read_datum(datum, index) for index, datum in enumerate(message.data)),
        loss_fn=message.loss_fn,
        loss_fn_config=_read_loss_config(message),
        forward_only=message.forward_only,
    )


def _read_datum(datum: pb.Datum, index: int) -> Datum:
    texts = []
    for chunk in datum.model_input:
        form = chunk.WhichOneof("chunk")
        if form != "encoded_text":
            raise InvalidInputError(
                f"datum {index}: {form or 'empty'} chunks are not supported by this server; "
                "model_input may hold encoded_text only"
            )
        texts.append(read_tokens(chunk.encoded_text.tokens))
    return Datum(
        tokens=np.concatenate(texts) if texts else np.empty(0, dtype=np.int32),
        loss_fn_inputs={
            name: read_tensor(tensor, f"datum {index}: {name}")
            for name, tensor in sorted(datum.loss_fn_inputs.items())
        },
    )


def _read_loss_config(message: pb.ForwardBackwardRequest) -> dict[str, float | str]:
    """Sorted, as protobuf gives maps in any order and equal requests must make equal ops."""
    config: dict[str, float | str] = dict(message.loss_fn_config)
    for name, setting in message.loss_fn_config_v2.items():
        config[name] = setting.text if setting.WhichOneof("value") == "text" else setting.number
    return dict(sorted(config.items()))


def write_forward_backward(done: ForwardBackwardDone) -> bytes:
    """ForwardBackwardOutput: datums in request order, one record per stretch of equal K."""
    records = []
    for _, group in groupby(done.logprobs, key=lambda array: array.shape[1:]):
        arrays = list(group)
        record = pb.ArrayRecord(type_tag=ARRAY_RECORD, num_datums=len(arrays))
        record.fields["logprobs"].CopyFrom(batch_arrays(arrays))
        records.append(record)
    return pb.ForwardBackwardOutput(
        loss_fn_output_type=ARRAY_RECORD,
        loss_fn_outputs=records,
        metrics={name: float(value) for name, value in done.metrics.items()},
    ).SerializeToString()
