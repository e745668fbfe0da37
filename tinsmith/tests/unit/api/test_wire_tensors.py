import numpy as np
import pytest
import scipy.sparse
import torch
from hypothesis import given
from hypothesis import strategies as st
from tinsmith.api.wire import tinsmith_wire_pb2 as pb
from tinsmith.api.wire.tensors import batch_arrays, expanded_bytes, read_tensor
from tinsmith.domain.errors import InvalidInputError


def dense(array: np.ndarray, dtype: int, shape=None) -> pb.Tensor:
    return pb.Tensor(
        dense=array.tobytes(), dtype=dtype, shape=array.shape if shape is None else shape
    )


def sparse(values, crow, col, shape, dtype=pb.DTYPE_FLOAT32, value_type=np.float32) -> pb.Tensor:
    return pb.Tensor(
        sparse_csr=pb.SparseCsr(
            values=np.asarray(values, dtype=value_type).tobytes(),
            crow_indices=np.asarray(crow, dtype=np.int64).tobytes(),
            col_indices=np.asarray(col, dtype=np.int64).tobytes(),
        ),
        dtype=dtype,
        shape=shape,
    )


@pytest.mark.parametrize(
    ("dtype", "sent", "read"),
    [
        (pb.DTYPE_FLOAT32, np.float32, np.float32),
        (pb.DTYPE_INT64, np.int64, np.int64),
        (pb.DTYPE_INT32, np.int32, np.int64),
    ],
)
def test_a_dense_tensor_keeps_its_values_and_shape(dtype, sent, read):
    array = np.arange(6).reshape(2, 3).astype(sent)
    result = read_tensor(dense(array, dtype), "weights")
    assert result.dtype == read
    np.testing.assert_array_equal(result, array)


def test_bfloat16_is_widened_exactly():
    numbers = torch.tensor([1.0, -2.5, 3.140625, float("inf")], dtype=torch.bfloat16)
    blob = numbers.view(torch.uint16).numpy()
    result = read_tensor(dense(blob, pb.DTYPE_BFLOAT16), "weights")
    np.testing.assert_array_equal(result, numbers.float().numpy())


def test_a_tensor_without_a_shape_is_a_row():
    result = read_tensor(dense(np.ones(4, np.float32), pb.DTYPE_FLOAT32, shape=()), "weights")
    assert result.shape == (4,)


@given(
    st.integers(0, 6),
    st.integers(1, 6),
    st.integers(0, 2**32 - 1),
)
def test_a_sparse_tensor_expands_as_scipy_expands_it(num_rows, num_columns, seed):
    generator = np.random.default_rng(seed)
    array = generator.integers(-3, 4, (num_rows, num_columns)) * generator.integers(
        0, 2, (num_rows, num_columns)
    )
    reference = scipy.sparse.csr_array(array)
    tensor = sparse(
        reference.data,
        reference.indptr,
        reference.indices,
        array.shape,
        pb.DTYPE_INT64,
        np.int64,
    )
    np.testing.assert_array_equal(read_tensor(tensor, "target_tokens"), reference.toarray())


@pytest.mark.parametrize(
    "tensor",
    [
        pb.Tensor(),
        pb.Tensor(dtype=pb.DTYPE_FLOAT32),
        pb.Tensor(dtype=9, dense=b"\0" * 4),  # type: ignore[arg-type]
        pb.Tensor(dtype=pb.DTYPE_FLOAT32, dense=b"\0" * 5),
        pb.Tensor(dtype=pb.DTYPE_FLOAT32, dense=b"\0" * 8, shape=[3]),
        pb.Tensor(dtype=pb.DTYPE_FLOAT32, dense=b"\0" * 8, shape=[-1, -2]),
        pb.Tensor(dtype=pb.DTYPE_FLOAT32, dense=b"", shape=[0, 2**62]),
        pb.Tensor(dtype=pb.DTYPE_FLOAT32, dense=b"", shape=[0] * 100),
        sparse([1], [0, 1], [0], [1]),
        sparse([1], [0, 1], [0], [-1, 1]),
        sparse([1], [0, 1], [0], [2, 1]),
        sparse([1], [1, 1], [0], [1, 1]),
        sparse([1], [0, 2], [0], [1, 1]),
        sparse([1, 2], [0, 1], [0], [1, 1]),
        sparse([1], [0, 1], [1], [1, 1]),
        sparse([1], [0, 1], [-1], [1, 1]),
        sparse([1, 1], [0, 2], [1, 1], [1, 3]),
        sparse([1, 1], [0, 2], [1, 0], [1, 3]),
        sparse([], [0, 1, 0], [], [2, 3]),
        sparse([1], [0, 2**63 - 1, -(2**63), -1, 1], [0], [4, 1]),
        sparse([], [], [], [0, 1]),
    ],
)
def test_blobs_that_do_not_fit_their_shape_are_refused_by_name(tensor):
    with pytest.raises(InvalidInputError, match="weights"):
        read_tensor(tensor, "weights")


def test_the_size_after_expansion_is_known_beforehand():
    assert expanded_bytes(sparse([], [0] * 1001, [], [1000, 1000])) == 4_000_000
    assert expanded_bytes(sparse([], [], [], [-5, 3])) == 0
    assert expanded_bytes(dense(np.ones(3, np.float32), pb.DTYPE_FLOAT32)) == 0


def test_batched_offsets_are_in_bytes():
    batch = batch_arrays([np.ones(2, np.float32), np.ones(0, np.float32), np.ones(3, np.float32)])
    assert np.frombuffer(batch.offsets, "<i8").tolist() == [0, 8, 8, 20]
