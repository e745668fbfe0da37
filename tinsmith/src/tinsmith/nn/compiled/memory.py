"""What compiled code needs of the machine: arrays by address, tickets and barriers.

Weights, keys and values reach the kernels as addresses, because there are hundreds of them a step
and a table of numbers is one argument. Whoever fills a table keeps the tensors alive.
"""

# pyright: reportIndexIssue=false, reportAttributeAccessIssue=false
from __future__ import annotations

import sys
from typing import Any

import numpy as np
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.np.numpy_support import carray

from tinsmith.nn.compiled.vectors import intrinsic, jit

_SPINS_BEFORE_YIELD = 4000
"""Some microseconds: more than a barrier takes among running threads, and far less than a turn
of the operating system's scheduler, to which the processor is then offered."""


@intrinsic
def _pointer_f32(typingctx: Any, address: Any) -> Any:
    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return builder.inttoptr(args[0], ir.FloatType().as_pointer())

    return types.CPointer(types.float32)(types.int64), codegen


@jit
def floats(address: int, count: int) -> Any:
    """The fp32 array [count] at an address."""
    return carray(_pointer_f32(address), (count,), dtype=np.float32)


@intrinsic
def address_of(typingctx: Any, array: Any) -> Any:
    """Where a C-contiguous array's first element lies."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        made = context.make_array(signature.args[0])(context, builder, args[0])
        return builder.ptrtoint(made.data, ir.IntType(64))

    return types.int64(array), codegen


@intrinsic
def _fetch_add(typingctx: Any, address: Any, value: Any) -> Any:
    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        pointer = builder.inttoptr(args[0], ir.IntType(64).as_pointer())
        return builder.atomic_rmw("add", pointer, args[1], "seq_cst")

    return types.int64(types.int64, types.int64), codegen


@intrinsic
def _load_acquire(typingctx: Any, address: Any) -> Any:
    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        pointer = builder.inttoptr(args[0], ir.IntType(64).as_pointer())
        return builder.load_atomic(pointer, "acquire", 8)

    return types.int64(types.int64), codegen


@intrinsic
def _offer_processor(typingctx: Any) -> Any:
    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        if sys.platform != "win32":  # there, we go on spinning
            kind = ir.FunctionType(ir.IntType(32), [])
            yielding = cgutils.get_or_insert_function(builder.module, kind, "sched_yield")
            builder.call(yielding, [])
        return context.get_dummy_value()

    return types.void(), codegen


@jit
def ticket(tickets: Any, slot: int) -> int:
    """The next number of a queue of tasks; every number is given to one thread only."""
    return _fetch_add(address_of(tickets) + 8 * slot, 1)


@jit
def barrier(arrivals: Any, num_threads: int) -> None:
    """Returns once all threads have come; what they wrote before is seen after.

    Args:
        arrivals: int64 [1]; counts on for ever.
    """
    if num_threads == 1:
        return
    address = address_of(arrivals)
    all_there = (_fetch_add(address, 1) // num_threads + 1) * num_threads
    spins = 0
    while _load_acquire(address) < all_there:
        spins += 1
        if spins > _SPINS_BEFORE_YIELD:
            _offer_processor()
