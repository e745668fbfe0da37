"""Tensors of the wire <-> numpy arrays.

Inside there are just float32 and int64: bfloat16 and int32 are widened on their way in, and sparse
tensors are expanded, their unlisted entries being 0.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from tinsmith.api.wire import tinsmith_wire_pb2 as pb
from tinsmith.domain.errors import InvalidInputError

ITEM_TYPES: dict[int, np.dtype] = {
    pb.DTYPE_FLOAT32: np.dtype("<f4"),
    pb.DTYPE_INT64: np.dtype("<i8"),
    pb.DTYPE_INT32: np.dtype("<i4"),
    pb.DTYPE_BFLOAT16: np.dtype("<u2"),
}
INDEX_TYPE = np.dtype("<i8")


def read_tokens(data: bytes) -> NDArray[np.int32]:
    """Token ids from the int32 blob of a text chunk."""
    return _items(data, np.dtype("<i4"), "encoded_text.tokens").astype(np.int32)


def read_tensor(tensor: pb.Tensor, name: str) -> NDArray[np.generic]:
    """A dense float32 or int64 array of the tensor's shape; without a shape, one-dimensional.

    Check `expanded_bytes` first: a few bytes of sparse tensor can ask for any amount of memory.

    Raises:
        InvalidInputError: unknown dtype, or blobs that do not fit the shape.
    """
    item_type = ITEM_TYPES.get(tensor.dtype)
    if item_type is None:
        raise InvalidInputError(
            f"{name} has dtype {tensor.dtype}; allowed are float32, int64, int32 and bfloat16"
        )
    encoding = tensor.WhichOneof("encoding")
    if encoding == "sparse_csr":
        return _expand(tensor, _items(tensor.sparse_csr.values, item_type, name), name)
    if encoding != "dense":
        raise InvalidInputError(f"{name} holds neither dense nor sparse_csr data")
    items = _items(tensor.dense, item_type, name)
    shape = tuple(tensor.shape) or (len(items),)
    if not _is_shape(shape) or math.prod(shape) != len(items):
        raise InvalidInputError(f"{name} has {len(items)} entries, which is not shape {shape}")
    return _widened(items).reshape(shape)


def expanded_bytes(tensor: pb.Tensor) -> int:
    """How much memory `read_tensor` would take for a sparse tensor; 0 for a dense one."""
    if tensor.WhichOneof("encoding") != "sparse_csr":
        return 0
    item_bytes = 8 if tensor.dtype in (pb.DTYPE_INT64, pb.DTYPE_INT32) else 4
    return item_bytes * math.prod(max(size, 0) for size in tensor.shape)


def batch_arrays(arrays: Sequence[NDArray[np.float32]]) -> pb.BatchedTensor:
    """Float32 arrays that differ at most in their leading length, end to end."""
    blobs = [np.ascontiguousarray(array, dtype="<f4").tobytes() for array in arrays]
    offsets = np.cumsum([0, *(len(blob) for blob in blobs)], dtype=INDEX_TYPE)
    return pb.BatchedTensor(
        data=b"".join(blobs),
        offsets=offsets.tobytes(),
        dtype=pb.DTYPE_FLOAT32,
        trailing_shape=arrays[0].shape[1:],
    )


def _items(data: bytes, item_type: np.dtype, name: str) -> NDArray[np.generic]:
    if len(data) % item_type.itemsize:
        raise InvalidInputError(
            f"{name} has {len(data)} bytes, which is no multiple of {item_type.itemsize}"
        )
    return np.frombuffer(data, dtype=item_type)


def _widened(items: NDArray[np.generic]) -> NDArray[np.generic]:
    if items.dtype == ITEM_TYPES[pb.DTYPE_BFLOAT16]:  # the upper half of a float32
        return (items.astype(np.uint32) << 16).view(np.float32)
    return items.astype(np.int64 if items.dtype.kind == "i" else np.float32)


def _is_shape(sizes: Sequence[int]) -> bool:
    return all(0 <= size < 2**31 for size in sizes) and len(sizes) <= 8


def _expand(tensor: pb.Tensor, values: NDArray[np.generic], name: str) -> NDArray[np.generic]:
    shape = tuple(tensor.shape)
    if len(shape) != 2 or not _is_shape(shape):
        raise InvalidInputError(f"{name} is sparse; its shape must be [rows, columns], got {shape}")
    num_rows, num_columns = shape
    starts = _indices(tensor.sparse_csr.crow_indices, f"{name}.crow_indices")
    columns = _indices(tensor.sparse_csr.col_indices, f"{name}.col_indices")
    check_csr((num_rows, num_columns), len(values), starts, columns, name)
    rows = np.repeat(np.arange(num_rows), np.diff(starts))
    listed = _widened(values)
    dense = np.zeros(shape, dtype=listed.dtype)
    dense[rows, columns] = listed
    return dense


def check_csr(
    shape: tuple[int, int],
    num_values: int,
    starts: NDArray[np.int64],
    columns: NDArray[np.int64],
    name: str,
) -> None:
    """Raises InvalidInputError unless these are compressed sparse rows of the shape."""
    num_rows, num_columns = shape
    if (
        len(starts) != num_rows + 1
        or starts[0] != 0
        or starts[-1] != len(columns)
        or np.any(starts[1:] < starts[:-1])
    ):
        raise InvalidInputError(
            f"{name}.crow_indices must be {num_rows + 1} numbers that rise from 0 to the "
            f"{len(columns)} listed entries"
        )
    if num_values != len(columns):
        raise InvalidInputError(f"{name} lists {len(columns)} columns for {num_values} values")
    if columns.min(initial=0) < 0 or columns.max(initial=-1) >= num_columns:
        raise InvalidInputError(f"{name}.col_indices must be from 0 to {num_columns - 1}")
    rows = np.repeat(np.arange(num_rows), np.diff(starts))
    if np.any((np.diff(rows) == 0) & (np.diff(columns) <= 0)):
        raise InvalidInputError(f"{name}.col_indices must rise within each row")


def _indices(data: bytes, name: str) -> NDArray[np.int64]:
    return _items(data, INDEX_TYPE, name).astype(np.int64)
