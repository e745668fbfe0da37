"""What can be wrong with a request: damage of every kind, drawn by a generator of chance."""

from __future__ import annotations

import gzip
import json
import zlib
from dataclasses import replace
from random import Random
from typing import Any

import zstandard
from damaged_heads import HEAD_DAMAGES, Damage
from damaged_messages import damaged_message
from odd_values import ODD_TEXTS, ODD_VALUES
from raw_http import Request

BOMB = zstandard.compress(b" " * 2**27)


def damaged(request: Request, chance: Random) -> Request:
    """The request with nothing, one thing or a few things wrong."""
    is_message = (b"Content-Type", b"application/x-protobuf") in request.headers
    body_damages = _PROTOBUF if is_message else _JSON
    for _ in range(chance.choice((0, 1, 1, 1, 2, 3))):
        kinds = body_damages if request.body and chance.random() < 0.7 else HEAD_DAMAGES
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


_JSON: tuple[Damage, ...] = (_json_value,) * 6 + (_json_text, _bytes, _truncated)
_PROTOBUF: tuple[Damage, ...] = (damaged_message,) * 4 + (_bytes, _bytes, _truncated)
