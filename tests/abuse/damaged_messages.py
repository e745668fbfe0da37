"""What can be wrong with a protobuf body: fields of any depth, set to odd values."""

from __future__ import annotations

from dataclasses import replace
from random import Random
from typing import Any

from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import DecodeError, Message
from odd_values import ODD_FLOATS, ODD_TEXTS
from raw_http import Request
from tinker.proto import tinker_public_pb2 as wire


def damaged_message(request: Request, chance: Random) -> Request:
    message = wire.ForwardBackwardRequest()
    try:
        message.ParseFromString(request.body)
    except DecodeError:  # an earlier damage made it unreadable
        return request
    _damage_message(message, chance)
    try:
        return replace(request, body=message.SerializeToString())
    except ValueError:
        return request


def _damage_message(message: Message, chance: Random) -> None:
    """Go down to a random field and set it to something odd."""
    field: FieldDescriptor = chance.choice(message.DESCRIPTOR.fields)
    value = getattr(message, field.name)
    is_map = field.message_type is not None and field.message_type.GetOptions().map_entry
    if is_map:
        keys = list(value)
        key = chance.choice([*keys, "", "extra", "\0", "x" * 500])
        entry = field.message_type.fields_by_name["value"]
        if entry.message_type is None:
            value[key] = chance.choice(ODD_FLOATS)
        elif keys and chance.random() < 0.2:
            del value[chance.choice(keys)]
        else:
            _damage_message(value[key], chance)
    elif field.is_repeated if hasattr(field, "is_repeated") else field.label == 3:
        if field.message_type is None:
            value.extend(_odd_scalar(field, chance) for _ in range(chance.choice((1, 2, 9))))
        elif not value or chance.random() < 0.2:
            for _ in range(chance.choice((1, 1, 200))):
                value.add()
        elif chance.random() < 0.1:
            del value[:]
        else:
            _damage_message(chance.choice(value), chance)
    elif field.message_type is not None:
        value.SetInParent()
        _damage_message(value, chance)
    else:
        setattr(message, field.name, _odd_scalar(field, chance))


def _odd_scalar(field: FieldDescriptor, chance: Random) -> Any:
    if field.enum_type is not None:
        return chance.choice((0, 1, 2, 3, 4, 5, 99, -1, 2**31 - 1))
    match field.cpp_type:
        case FieldDescriptor.CPPTYPE_STRING if field.type == FieldDescriptor.TYPE_BYTES:
            return chance.choice((b"", b"\0", b"\xff" * 8, chance.randbytes(16), b"\0" * 4096))
        case FieldDescriptor.CPPTYPE_STRING:
            return chance.choice(ODD_TEXTS).encode("utf-8", "replace").decode()
        case FieldDescriptor.CPPTYPE_BOOL:
            return chance.random() < 0.5
        case FieldDescriptor.CPPTYPE_DOUBLE | FieldDescriptor.CPPTYPE_FLOAT:
            return chance.choice(ODD_FLOATS)
        case FieldDescriptor.CPPTYPE_UINT32:
            return chance.choice((0, 1, 2**32 - 1))
        case FieldDescriptor.CPPTYPE_INT32:
            return chance.choice((0, -1, 1, 2**31 - 1, -(2**31)))
        case _:
            return chance.choice((0, -1, 1, 2**31, 2**62, 2**63 - 1, -(2**63)))
