"""Matrices in JSON, as requests have them, and in protobuf, as answers do."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from tinsmith.api.wire import tinsmith_wire_pb2 as pb
from tinsmith.api.wire.fields import Fields
from tinsmith.api.wire.tensors import check_csr
from tinsmith.domain.errors import InvalidInputError
from tinsmith.domain.matrix import Matrix

SIZE_LIMIT = 2**31


def read_id_matrix(fields: Fields, key: str) -> Matrix | None:
    """A matrix of token ids, int64; None when absent. Raises InvalidInputError."""
    tensor = fields.object_or(key, None)
    if tensor is None:
        return None
    if tensor.raw("dtype") != "int64":
        raise tensor.refuse("dtype", '"int64"')
    sizes = _integers(tensor, "shape")
    if len(sizes) != 2 or not all(0 <= size < SIZE_LIMIT for size in sizes.tolist()):
        raise tensor.refuse("shape", "two sizes")
    shape = (int(sizes[0]), int(sizes[1]))
    values = _integers(tensor, "data")
    if tensor.has("sparse_crow_indices") or tensor.has("sparse_col_indices"):
        starts = _integers(tensor, "sparse_crow_indices")
        columns = _integers(tensor, "sparse_col_indices")
        check_csr(shape, len(values), starts, columns, key)
        return Matrix(shape, values, starts, columns)
    if len(values) != shape[0] * shape[1]:
        raise InvalidInputError(
            f"{key} has {len(values)} entries, which is not shape {list(shape)}"
        )
    return Matrix(shape, values)


def _integers(tensor: Fields, key: str) -> NDArray[np.int64]:
    items = tensor.raw(key)
    if not isinstance(items, list) or not all(
        type(item) is int and -SIZE_LIMIT <= item < SIZE_LIMIT for item in items
    ):
        raise tensor.refuse(key, f"a list of integers below {SIZE_LIMIT}")
    return np.asarray(items, dtype=np.int64)


def write_matrix(matrix: Matrix) -> pb.Tensor:
    """In the layout that it has."""
    is_float = matrix.values.dtype.kind == "f"
    values = matrix.values.astype("<f4" if is_float else "<i8").tobytes()
    tensor = pb.Tensor(
        dtype=pb.DTYPE_FLOAT32 if is_float else pb.DTYPE_INT64, shape=list(matrix.shape)
    )
    if matrix.row_starts is None or matrix.columns is None:
        tensor.dense = values
    else:
        tensor.sparse_csr.values = values
        tensor.sparse_csr.crow_indices = matrix.row_starts.astype("<i8").tobytes()
        tensor.sparse_csr.col_indices = matrix.columns.astype("<i8").tobytes()
    return tensor
