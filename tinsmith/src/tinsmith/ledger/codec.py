"""Ops and outcomes as bytes, and back. Our own format: what is logged today must still replay
after the wire, numpy and this program have moved on.

    offset 0   4 bytes  b"tsp" and the format version
           4   u32      length of the header in bytes, little-endian
           8   header   JSON, UTF-8; arrays stand in it as {"a": [dtype, shape, offset]}
               padding  zeros up to a multiple of 8
               arrays   raw, little-endian, C order, each at a multiple of 8 from their start

Equal values give equal bytes (keys are sorted), so a digest of them tells repeats from different
work. Fields that a dataclass has gained since a payload was written take their defaults.
"""

from __future__ import annotations

import json
import math
import struct
from collections.abc import Mapping
from dataclasses import fields
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tinsmith.domain import ops, outcomes
from tinsmith.domain.addresses import CheckpointAddress, CheckpointKind
from tinsmith.domain.datum import Datum
from tinsmith.domain.errors import StorageError
from tinsmith.domain.matrix import Matrix
from tinsmith.domain.ops import Op
from tinsmith.domain.outcomes import Outcome

MAGIC = b"tsp"
VERSION = 1
_ALIGN = 8

_CLASSES: Mapping[str, type] = {
    cls.__name__: cls
    for cls in (
        CheckpointAddress,
        Datum,
        Matrix,
        ops.LoraConfig,
        ops.AdamParams,
        ops.SamplingParams,
        ops.CreateRun,
        ops.CreateRunFromState,
        ops.ForwardBackward,
        ops.OptimStep,
        ops.SaveState,
        ops.SaveForSampler,
        ops.SaveExternal,
        ops.LoadState,
        ops.Release,
        ops.Sample,
        outcomes.RunCreated,
        outcomes.ForwardBackwardDone,
        outcomes.StepDone,
        outcomes.Saved,
        outcomes.Loaded,
        outcomes.Released,
        outcomes.TopK,
        outcomes.AltTokens,
        outcomes.SampledSequence,
        outcomes.Sampled,
        outcomes.Succeeded,
        outcomes.Failed,
    )
}
_ENUMS: Mapping[str, type] = {
    cls.__name__: cls for cls in (CheckpointKind, outcomes.StopReason, outcomes.FailureCategory)
}
_DTYPES = ("<f4", "<f8", "<i4", "<i8", "|u1", "|b1")


def encode(value: Op | Outcome) -> bytes:
    """Raises TypeError for what is not built of domain values: our own bug."""
    arrays = _Arrays()
    header = json.dumps(
        _plain(value, arrays), allow_nan=False, separators=(",", ":"), sort_keys=True
    ).encode()
    gap = b"\0" * (-(8 + len(header)) % _ALIGN)
    return b"".join(
        (MAGIC, bytes([VERSION]), struct.pack("<I", len(header)), header, gap, *arrays.pieces)
    )


def decode(data: bytes) -> Any:
    """What `encode` was given. Its arrays are writable and belong to the caller.

    Raises:
        StorageError: not such bytes, cut short, or written by a newer version.
    """
    if data[:3] != MAGIC or len(data) < 8:
        raise StorageError("a payload in the ledger is damaged: it does not begin as one")
    if data[3] > VERSION:
        raise StorageError(
            f"a payload in the ledger is in format {data[3]}; this tinsmith reads up to {VERSION}. "
            "Use the newer tinsmith that wrote it."
        )
    (length,) = struct.unpack_from("<I", data, 4)
    start = 8 + length
    try:
        header = json.loads(data[8:start].decode())
        return _value(header, bytearray(data), start + -start % _ALIGN)
    except (ValueError, TypeError, KeyError, IndexError, UnicodeDecodeError) as error:
        raise StorageError(f"a payload in the ledger is damaged: {error}") from error


class _Arrays:
    """The part behind the header, as it grows."""

    def __init__(self) -> None:
        self.pieces: list[bytes] = []
        self._size = 0

    def add(self, array: NDArray[np.generic]) -> list[Any]:
        dtype = array.dtype.newbyteorder("<")
        if dtype.str not in _DTYPES:
            raise TypeError(f"arrays of {array.dtype} are not kept in the ledger")
        data = np.ascontiguousarray(array, dtype=dtype).tobytes()
        offset = self._size
        gap = -len(data) % _ALIGN
        self.pieces += [data, b"\0" * gap]
        self._size += len(data) + gap
        return [dtype.str, list(array.shape), offset]


def _plain(value: Any, arrays: _Arrays) -> Any:
    """JSON for a value. Tuples become lists; all else that JSON lacks becomes an object with one
    key: a array, c class, e enum, f float that is not finite, m mapping."""
    if value is None or isinstance(value, (bool, np.bool_)):
        return None if value is None else bool(value)
    name = type(value).__name__
    if name in _ENUMS:  # before str, which these are as well
        return {"e": [name, value.value]}
    if isinstance(value, str):
        return value
    if isinstance(value, (int, np.integer)):
        return int(value)
    if isinstance(value, (float, np.floating)):
        number = float(value)
        return number if math.isfinite(number) else {"f": repr(number)}
    if isinstance(value, np.ndarray):
        return {"a": arrays.add(value)}
    if isinstance(value, (tuple, list)):
        return [_plain(item, arrays) for item in value]
    if isinstance(value, Mapping):
        return {"m": {key: _plain(value[key], arrays) for key in sorted(value)}}
    if name in _CLASSES:
        content = {f.name: _plain(getattr(value, f.name), arrays) for f in fields(value)}
        return {"c": [name, content]}
    raise TypeError(f"{type(value)} is not kept in the ledger")


def _value(plain: Any, data: bytearray, start: int) -> Any:
    if isinstance(plain, list):
        return tuple(_value(item, data, start) for item in plain)
    if not isinstance(plain, dict):
        return plain
    ((key, content),) = plain.items()
    if key == "c":
        name, values = content
        return _CLASSES[name](**{k: _value(v, data, start) for k, v in values.items()})
    if key == "a":
        dtype, shape, offset = content
        if dtype not in _DTYPES:
            raise ValueError(f"an array of {dtype}")
        count = math.prod(shape)
        return np.frombuffer(data, dtype, count, start + offset).reshape(shape)
    if key == "m":
        return {k: _value(v, data, start) for k, v in content.items()}
    if key == "e":
        name, member = content
        return _ENUMS[name](member)
    if key == "f":
        return float(content)
    raise ValueError(f"unknown entry {key!r}")
