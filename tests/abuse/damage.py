"""What can be wrong with a request: damage of every kind, drawn by a generator of chance."""

from __future__ import annotations

import gzip
import json
import zlib
from collections.abc import Callable
from dataclasses import replace
from random import Random
from typing import Any

import zstandard
from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import DecodeError, Message
from raw_http import Request
from tinker.proto import tinker_public_pb2 as wire

ODD_NUMBERS = (0, -1, 1, 2**31 - 1, 2**31, -(2**31) - 1, 2**53, 2**63 - 1, 2**63, -(2**63), 2**70)
ODD_FLOATS = (0.0, -0.0, 1.5, 1e-320, 1e300, float("nan"), float("inf"), float("-inf"))
ODD_TEXTS = (
    "",
    "\0",
    "a\0b",
    "\ud800",
    "\u202e\u0301\ufeff",
    "😀" * 50,
    "x" * 5000,
    "../../../../etc/passwd",
    "..\\..\\x",
    "tinker://a/weights/b",
    "tinker://a/weights/../b",
    "'; DROP TABLE ops; --",
    "{{ 7 * 7 }}",
    "%s%n%x",
    "NaN",
    "-1",
)
ODD_VALUES: tuple[Any, ...] = (
    None,
    True,
    False,
    *ODD_NUMBERS,
    *ODD_FLOATS,
    *ODD_TEXTS,
    [],
    {},
    [None],
    [[[[]]]],
    [1, "a", None],
    [-1, 2**40],
    {"": ""},
    {"type": None},
    {"type": "encoded_text", "tokens": "abc"},
    {"__proto__": {"a": 1}},
)
ODD_SEGMENTS = (
    b"",
    b"%00",
    b"%ff",
    b"%",
    b"%zz",
    b"..",
    b"%2e%2e",
    b"%2e%2e%2f%2e%2e%2fetc%2fpasswd",
    b"..%5c..%5c",
    b"C:%5cx",
    b"a%3fb%23c",
    b"%c0%ae%c0%ae",
    b"%E2%80%AE",
    b"~",
    b"nothing",
    b"x" * 3000,
    b"a;b=c",
    b"//",
)
ODD_QUERIES = (
    b"limit=-1",
    b"limit=99999999999999999999&offset=1",
    b"limit=%00",
    b"offset=9223372036854775807",
    b"limit=1&limit=2",
    b"=&&&=",
    b"%ff=%ff",
    b"expires=1&signature=%00",
    b"expires=" + b"9" * 400,
    b"project_id=%ed%a0%80",
    b"project_id=" + b"a" * 4000,
    b"a" * 8000,
)
ODD_HEADERS: tuple[tuple[bytes, bytes], ...] = (
    (b"Content-Type", b"text/html; charset=\xff"),
    (b"Content-Type", b"multipart/form-data; boundary=x"),
    (b"Content-Encoding", b"zstd, zstd, gzip"),
    (b"Content-Encoding", b"br"),
    (b"Content-Encoding", b""),
    (b"Host", b""),
    (b"Host", b"["),
    (b"Host", b"[::1"),
    (b"Host", b"a b"),
    (b"Host", b"evil.example"),
    (b"Host", b"localhost:99999999"),
    (b"Host", b"user@localhost"),
    (b"X-Forwarded-Host", b"evil.example"),
    (b"X-Forwarded-For", b"127.0.0.1"),
    (b"X-Idempotency-Key", b"\xff" * 100),
    (b"X-Idempotency-Key", b"k" * 5000),
    (b"X-API-Key", b""),
    (b"X-API-Key", b"eyJhbGciOiJub25lIn0.e30."),
    (b"X-API-Key", b"eyJ..\xff"),
    (b"Authorization", b"Bearer \xff"),
    (b"Authorization", b"Basic Og=="),
    (b"Cookie", b"a=b; " * 500),
    (b"Accept", b"\xff/*;q=nan"),
    (b"Accept-Encoding", b"zstd;q=-1"),
    (b"Range", b"bytes=0-0,5-2,-1"),
    (b"Range", b"bytes=99999999999999999999-"),
    (b"If-None-Match", b'"' + b"x" * 200),
    (b"If-Range", b"\xff"),
    (b"Expect", b"100-continue"),
    (b"Expect", b"a miracle"),
    (b"Upgrade", b"websocket"),
    (b"Connection", b"upgrade, close"),
    (b"TE", b"trailers"),
    (b"Origin", b"http://evil.example"),
    (b"Access-Control-Request-Method", b"DELETE"),
    (b"X-Tinker-Request-Type", b"Sample"),
    (b"Content-Length", b"-1"),
    (b"Content-Length", b"99999999999999999999"),
    (b"Content-Length", b"3, 4"),
    (b"Transfer-Encoding", b"gzip, chunked"),
    (b"Transfer-Encoding", b"identity"),
)
METHODS = (b"GET", b"HEAD", b"POST", b"PUT", b"DELETE", b"PATCH", b"OPTIONS", b"TRACE", b"FOO")

BOMB = zstandard.compress(b" " * 2**27)

Damage = Callable[[Request, Random], Request]


def damaged(request: Request, chance: Random) -> Request:
    """The request with nothing, one thing or a few things wrong."""
    is_message = (b"Content-Type", b"application/x-protobuf") in request.headers
    body_damages = _PROTOBUF if is_message else _JSON
    for _ in range(chance.choice((0, 1, 1, 1, 2, 3))):
        kinds = body_damages if request.body and chance.random() < 0.7 else _HEAD
        request = chance.choice(kinds)(request, chance)
        if request.raw is not None:
            break
    if request.body and request.raw is None and chance.random() < 0.15:
        request = _compressed(request, chance)
    return request


def damaged_value(value: Any, chance: Random) -> Any:
    """The JSON value itself, with something odd in the place of a random one of its parts."""
    root = {"": value}
    place, key = root, ""
    while isinstance(place[key], dict | list) and place[key] and chance.random() < 0.8:
        place = place[key]
        key = (
            chance.choice(list(place)) if isinstance(place, dict) else chance.randrange(len(place))
        )
    match chance.randrange(5):
        case 0 if isinstance(place, dict) and place is not root:
            del place[key]
        case 1 if isinstance(place, dict) and place is not root:
            place[chance.choice(ODD_TEXTS) or "extra"] = chance.choice(ODD_VALUES)
        case 2:
            place[key] = [place[key]] * chance.choice((0, 1, 2, 300))
        case _:
            place[key] = chance.choice(ODD_VALUES)
    return root[""]


def _json_value(request: Request, chance: Random) -> Request:
    try:
        value = damaged_value(json.loads(request.body), chance)
        return replace(request, body=json.dumps(value).encode())
    except (ValueError, RecursionError):  # an earlier damage made it unreadable
        return request


def _json_text(request: Request, chance: Random) -> Request:
    body = request.body
    numbers = (b"1e999", b"NaN", b"-Infinity", b"9" * 5000, b"0x10", b"01", b"1.")
    match chance.randrange(7):
        case 0:
            depth = chance.choice((50, 900, 1500, 100_000))
            return replace(request, body=b'{"prompt":' + b"[" * depth + b"]" * depth + b"}")
        case 1:
            depth = chance.choice((50, 900, 100_000))
            return replace(request, body=b'{"reason":' * depth + b"1" + b"}" * depth)
        case 2:
            return replace(request, body=body.replace(b"1", chance.choice(numbers), 1))
        case 3:
            codec = chance.choice(("utf-16", "utf-32", "utf-8-sig", "utf-7"))
            return replace(request, body=body.decode("utf-8", "replace").encode(codec, "replace"))
        case 4:
            return replace(request, body=body[:-1] + b',"seq_id":1,"seq_id":"two"}')
        case 5:
            return replace(request, body=chance.choice((b"null", b"[]", b'"a"', b"1", b"{}", b"{")))
        case _:
            return replace(request, body=body.replace(b'"', b"'"))


def _bytes(request: Request, chance: Random) -> Request:
    raw = bytearray(request.body)
    for _ in range(chance.choice((1, 1, 2, 8))):
        place = chance.randrange(len(raw) + 1)
        match chance.randrange(4):
            case 0:
                raw[place : place + 1] = chance.randbytes(1)
            case 1:
                del raw[place : place + chance.choice((1, 4, 100))]
            case 2:
                raw[place:place] = chance.randbytes(chance.choice((1, 4, 64)))
            case _:
                raw[place:place] = raw[place : place + 50] * chance.choice((1, 20))
    return replace(request, body=bytes(raw))


def _truncated(request: Request, chance: Random) -> Request:
    return replace(request, body=request.body[: chance.randrange(len(request.body) + 1)])


def _message_field(request: Request, chance: Random) -> Request:
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


def _path(request: Request, chance: Random) -> Request:
    path, separator, query = request.target.partition(b"?")
    parts = path.split(b"/")
    at = chance.randrange(1, len(parts))
    match chance.randrange(3):
        case 0:
            parts.insert(at, chance.choice(ODD_SEGMENTS))
        case 1:
            del parts[at]
        case _:
            parts[at] = chance.choice(ODD_SEGMENTS)
    return replace(request, target=(b"/".join(parts) or b"/") + separator + query)


def _query(request: Request, chance: Random) -> Request:
    path = request.target.partition(b"?")[0]
    return replace(request, target=path + b"?" + chance.choice(ODD_QUERIES))


def _header(request: Request, chance: Random) -> Request:
    name, value = chance.choice(ODD_HEADERS)
    kept = request.headers
    if chance.random() < 0.7:
        kept = tuple(pair for pair in kept if pair[0].lower() != name.lower())
    return replace(request, headers=(*kept, (name, value)))


def _many_headers(request: Request, chance: Random) -> Request:
    number = chance.choice((20, 200, 2000))
    return replace(request, headers=request.headers + ((b"X-A", b"b"),) * number)


def _lost_header(request: Request, chance: Random) -> Request:
    if not request.headers:
        return request
    at = chance.randrange(len(request.headers))
    return replace(request, headers=request.headers[:at] + request.headers[at + 1 :])


def _method(request: Request, chance: Random) -> Request:
    return replace(request, method=chance.choice(METHODS))


def _version(request: Request, chance: Random) -> Request:
    return replace(request, version=chance.choice((b"HTTP/1.0", b"HTTP/0.9", b"HTTP/2", b"JUNK")))


def _absolute(request: Request, chance: Random) -> Request:
    origin = chance.choice((b"http://127.0.0.1", b"https://evil.example:1", b"*", b"x"))
    return replace(request, target=origin + request.target)


def _chunked(request: Request, chance: Random) -> Request:
    body = request.body or b"{}"
    size = b"%x" % len(body)
    size = chance.choice((size, size, size, b"ffffffffffffffff", b"-1", b"zz", size + b";a=b"))
    end = chance.choice((b"\r\n0\r\n\r\n", b"\r\n0\r\nX: y\r\n\r\n", b"0\r\n\r\n", b"\r\nzz\r\n"))
    headers = (*request.headers, (b"Transfer-Encoding", b"chunked"))
    return replace(request, headers=headers, body=size + b"\r\n" + body + end)


def _garbage(request: Request, chance: Random) -> Request:
    whole = bytearray(request.to_bytes())
    end = max(whole.find(b"\r\n\r\n"), 1)
    for _ in range(chance.choice((1, 3, 20))):
        whole[chance.randrange(end)] = chance.randrange(256)
    return request.with_raw(bytes(whole))


def _pipelined(request: Request, chance: Random) -> Request:
    whole = request.to_bytes()
    return request.with_raw(whole * chance.choice((2, 5)) + chance.choice((b"", b"x", b"\r\n\r\n")))


def _compressed(request: Request, chance: Random) -> Request:
    body = request.body
    zstd = zstandard.ZstdCompressor(write_content_size=chance.random() < 0.5)
    name, packed = chance.choice(
        (
            (b"zstd", zstd.compress(body)),
            (b"zstd", zstd.compress(body)),
            (b"zstd", zstd.compress(body)[:-3]),
            (b"zstd", zstd.compress(zstd.compress(body))),
            (b"zstd", zstd.compress(body) * 2),
            (b"zstd", BOMB),
            (b"zstd", body),
            (b"ZSTD", zstd.compress(body)),
            (b"gzip", gzip.compress(body)),
            (b"deflate", zlib.compress(body)),
            (b"identity", body),
            (b"zstd, zstd", zstd.compress(zstd.compress(body))),
        )
    )
    if chance.random() < 0.2:
        packed = _bytes(replace(request, body=packed), chance).body
    return replace(request, headers=(*request.headers, (b"Content-Encoding", name)), body=packed)


_HEAD: tuple[Damage, ...] = (
    _path,
    _path,
    _query,
    _header,
    _header,
    _header,
    _many_headers,
    _lost_header,
    _method,
    _version,
    _absolute,
    _chunked,
    _garbage,
    _pipelined,
)
_JSON: tuple[Damage, ...] = (_json_value,) * 6 + (_json_text, _bytes, _truncated)
_PROTOBUF: tuple[Damage, ...] = (_message_field,) * 4 + (_bytes, _bytes, _truncated)
