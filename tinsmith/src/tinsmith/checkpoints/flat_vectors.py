"""Flat fp32 vectors as a safetensors file, streamed from their own memory: this is written when
memory is short."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import load

Vectors = Mapping[str, NDArray[np.float32]]


def pieces(vectors: Vectors) -> Iterator[bytes | memoryview]:
    """The file, part by part."""
    yield _header(vectors)
    for vector in vectors.values():
        yield as_bytes(vector)


def read_vectors(data: bytes) -> Vectors:
    """What `pieces` was given. Raises SafetensorError for anything else."""
    return load(data)


def as_bytes(vector: NDArray[np.float32]) -> memoryview:
    """Little-endian, without a copy where it is so already."""
    return np.ascontiguousarray(vector, dtype="<f4").view(np.uint8).data


def _header(vectors: Vectors) -> bytes:
    """Safetensors' own: the length of a JSON text, and that text, which says where what is."""
    entries, start = {}, 0
    for name, vector in vectors.items():
        stop = start + vector.size * 4
        entries[name] = {"dtype": "F32", "shape": [vector.size], "data_offsets": [start, stop]}
        start = stop
    text = json.dumps(entries).encode()
    text += b" " * (-len(text) % 8)  # vectors start at a multiple of eight, as others expect it
    return len(text).to_bytes(8, "little") + text
