"""Our messages are the SDK's, and still are after its next release only if these tests say so."""

from pathlib import Path

import tinker
from google.protobuf import descriptor_pb2
from google.protobuf.descriptor import FileDescriptor
from grpc_tools import protoc
from tinker.proto import tinker_public_pb2
from tinsmith.api import wire
from tinsmith.api.wire import tinsmith_wire_pb2

# Defined by the SDK's file, sent by no call of 0.38.0.
UNUSED_BY_THE_SDK = {"SamplingParams", "StopStrings", "StopTokens"}
PROTO = Path(next(iter(wire.__path__))) / "tinsmith_wire.proto"


def fields_by_message(file: FileDescriptor) -> dict[str, list[tuple]]:
    """Message name -> its fields: number, name, type, label, presence, oneof, message or enum."""
    described = descriptor_pb2.FileDescriptorProto()
    file.CopyToProto(described)
    messages: dict[str, list[tuple]] = {}

    def add(message: descriptor_pb2.DescriptorProto, prefix: str) -> None:
        for nested in message.nested_type:
            add(nested, f"{prefix}{message.name}.")
        messages[prefix + message.name] = sorted(
            (
                field.number,
                field.name,
                field.type,
                field.label,
                field.proto3_optional,
                message.oneof_decl[field.oneof_index].name if field.HasField("oneof_index") else "",
                field.type_name.removeprefix(f".{described.package}."),
            )
            for field in message.field
        )

    for message in described.message_type:
        add(message, "")
    return messages


def values_by_enum(file: FileDescriptor) -> dict[str, dict[str, int]]:
    return {
        name: {value.name: value.number for value in enum.values}
        for name, enum in file.enum_types_by_name.items()
    }


def test_the_installed_sdk_is_the_one_we_speak_with():
    assert tinker.__version__ == "0.38.0"


def test_every_message_equals_the_sdks_field_by_field():
    theirs = fields_by_message(tinker_public_pb2.DESCRIPTOR)
    ours = fields_by_message(tinsmith_wire_pb2.DESCRIPTOR)
    assert ours == {
        name: fields for name, fields in theirs.items() if name not in UNUSED_BY_THE_SDK
    }


def test_every_enum_equals_the_sdks():
    assert values_by_enum(tinsmith_wire_pb2.DESCRIPTOR) == values_by_enum(
        tinker_public_pb2.DESCRIPTOR
    )


def test_the_generated_module_is_what_the_proto_file_says(tmp_path):
    described = tmp_path / "fresh.pb"
    code = protoc.main(["", f"-I{PROTO.parent}", f"--descriptor_set_out={described}", PROTO.name])
    assert code == 0
    fresh = descriptor_pb2.FileDescriptorSet.FromString(described.read_bytes()).file[0]
    checked_in = descriptor_pb2.FileDescriptorProto()
    tinsmith_wire_pb2.DESCRIPTOR.CopyToProto(checked_in)
    for described in (fresh, checked_in):  # protoc writes these out, the runtime does not
        for message in described.message_type:
            for field in [*message.field, *(f for n in message.nested_type for f in n.field)]:
                field.ClearField("json_name")
    assert fresh == checked_in


def test_the_generated_module_demands_no_particular_protobuf_release():
    generated = PROTO.with_name("tinsmith_wire_pb2.py").read_text()
    assert "runtime_version" not in generated
