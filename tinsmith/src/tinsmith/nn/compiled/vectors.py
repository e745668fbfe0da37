"""LLVM's vector instructions, as far as the tiles need them, and functions made of them.

A vector of a width that the processor lacks is put together by LLVM from what it has.
"""

# pyright: reportIndexIssue=false, reportAttributeAccessIssue=false
from __future__ import annotations

import platform
from collections.abc import Callable
from functools import partial
from typing import Any

import llvmlite.binding as llvm
from llvmlite import ir
from numba import extending, njit, types
from numba.core import cgutils

_FEATURES = llvm.get_host_cpu_features()
_IS_X86 = platform.machine().lower() in {"x86_64", "amd64"}
_FUSES = not _IS_X86 or bool(_FEATURES.get("fma"))

LANES = 16 if _FEATURES.get("avx512f") else 8
"""fp32 numbers in a vector."""

jit = partial(njit, error_model="numpy")
"""numba's compiler; a division by zero gives what IEEE says, without a test for it."""

intrinsic: Any = extending.intrinsic
"""Makes a function that compiled Python can call from one that writes LLVM's code. The latter's
first parameter is not an argument, and pyright knows nothing of that."""

I64, I32, I16, I8 = (ir.IntType(bits) for bits in (64, 32, 16, 8))


F32 = ir.FloatType()


def vector(width: int, element: Any = F32) -> Any:
    return ir.VectorType(element, width)


class Code:
    """An IRBuilder with what the tiles are made of. Addresses are i64."""

    def __init__(self, builder: Any) -> None:
        self.builder = builder

    def at(self, address: Any, index: Any, stride: Any) -> Any:
        return self.builder.add(address, self.builder.mul(index, stride))

    def load(self, address: Any, kind: Any, align: int = 4) -> Any:
        return self.builder.load(self.builder.inttoptr(address, kind.as_pointer()), align=align)

    def store(self, value: Any, address: Any) -> None:
        pointer = self.builder.inttoptr(address, value.type.as_pointer())
        self.builder.store(value, pointer, align=4)

    def prefetch(self, address: Any) -> None:
        """Fetch a line into the first level of the cache, if it can be read at all."""
        pointer = self.builder.inttoptr(address, I8.as_pointer())
        kind = ir.FunctionType(ir.VoidType(), [I8.as_pointer(), I32, I32, I32])
        function = cgutils.get_or_insert_function(self.builder.module, kind, "llvm.prefetch.p0i8")
        for_reading, into_first_level, of_data = I32(0), I32(3), I32(1)
        self.builder.call(function, [pointer, for_reading, into_first_level, of_data])

    def fma(self, a: Any, b: Any, c: Any) -> Any:
        """a * b + c, rounded once where the processor can."""
        if not _FUSES:
            return self.builder.fadd(self.builder.fmul(a, b), c)
        kind = ir.FunctionType(a.type, [a.type] * 3)
        name = f"llvm.fma.v{a.type.count}f32"
        function = cgutils.get_or_insert_function(self.builder.module, kind, name)
        return self.builder.call(function, [a, b, c])

    def pick(self, a: Any, b: Any, lanes: list[int]) -> Any:
        return self.builder.shuffle_vector(a, b, ir.Constant(vector(len(lanes), I32), lanes))

    def splat(self, value: Any, width: int) -> Any:
        empty = ir.Constant(vector(width), ir.Undefined)
        return self.pick(self.builder.insert_element(empty, value, I32(0)), empty, [0] * width)

    def widened(self, narrow: Any, width: int) -> Any:
        """The vector, followed by zeros."""
        count = narrow.type.count
        if count == width:
            return narrow
        zeros = ir.Constant(narrow.type, None)
        return self.pick(narrow, zeros, [min(lane, count) for lane in range(width)])

    def sums(self, vectors: list[Any]) -> Any:
        """Lane i of the result is the sum over the lanes of vector i, of LANES vectors."""
        width = LANES
        even, odd = list(range(0, 2 * width, 2)), list(range(1, 2 * width, 2))
        while len(vectors) > 1:
            vectors = [
                self.builder.fadd(self.pick(a, b, even), self.pick(a, b, odd))
                for a, b in zip(vectors[::2], vectors[1::2], strict=True)
            ]
        return vectors[0]


def compiled_function(name: str, num_arguments: int, body: Callable[..., None]) -> Any:
    """What body(code, *arguments) builds, as something that compiled Python can call with one
    tuple of `num_arguments` int64."""

    def define(module: Any) -> Any:
        kind = ir.FunctionType(ir.VoidType(), [I64] * num_arguments)
        function = cgutils.get_or_insert_function(module, kind, name)
        if function.is_declaration:
            function.linkage = "internal"
            function.attributes.add("noinline")
            builder = ir.IRBuilder(function.append_basic_block())
            body(Code(builder), *function.args)
            builder.ret_void()
        return function

    @intrinsic
    def call(typingctx: Any, arguments: Any) -> Any:
        def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            values = cgutils.unpack_tuple(builder, args[0], num_arguments)
            builder.call(define(builder.module), values)
            return context.get_dummy_value()

        return types.void(types.UniTuple(types.int64, num_arguments)), codegen

    return call


def linked_function(name: str, num_arguments: int) -> Any:
    """A function that machine code of this name is linked to later (llvm.add_symbol), for
    compiled Python to call with one tuple of `num_arguments` int64."""

    @intrinsic
    def call(typingctx: Any, arguments: Any) -> Any:
        def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            values = cgutils.unpack_tuple(builder, args[0], num_arguments)
            kind = ir.FunctionType(ir.VoidType(), [I64] * num_arguments)
            builder.call(cgutils.get_or_insert_function(builder.module, kind, name), values)
            return context.get_dummy_value()

        return types.void(types.UniTuple(types.int64, num_arguments)), codegen

    return call
