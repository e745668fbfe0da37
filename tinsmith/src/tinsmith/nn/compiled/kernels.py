"""The functions that Python calls, compiled on first use and kept on disk for later processes.

numba keeps what it compiled beside the source, or in the person's cache folder where that is not
writable, and tells by the file's date whether it is still good. What we compile is spread over
several files, so a digest of them all is part of the key.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from hashlib import sha256
from pathlib import Path
from typing import Any

import llvmlite.binding as llvm
from numba import cfunc, types

from tinsmith.nn.compiled import attention, choice, step, tiles
from tinsmith.nn.compiled.vectors import jit

_KEPT: list[Any] = []
"""What is linked by address."""


@dataclass(frozen=True, slots=True)
class Kernels:
    decode_step: Callable[..., None]
    head_step: Callable[..., None]
    choose_greedily: Callable[..., None]
    attend: Callable[..., None]


@cache
def kernels() -> Kernels:
    sources = sorted(Path(__file__).parent.glob("*.py"))
    digest = sha256(b"".join(path.read_bytes() for path in sources)).hexdigest()
    return _kernels(digest)


def _kernels(digest: str) -> Kernels:
    signature = types.void(*[types.int64] * tiles.DOT_TILE_ARGUMENTS)

    @cfunc(signature, cache=True, error_model="numpy")
    def dot_tile(m, is_bf16, w, ws, rows, x, xs, k, out, outs, ahead, lines, begins, ends, carried):
        _ = digest
        tiles.any_dot_tile(
            m, is_bf16, w, ws, rows, x, xs, k, out, outs, ahead, lines, begins, ends, carried
        )

    _KEPT.append(dot_tile)
    llvm.add_symbol(tiles.DOT_TILE, dot_tile.address)

    options: dict[str, Any] = {"nogil": True, "cache": True}

    # What a function closes over counts in numba's key.
    @jit(**options)
    def decode_step(thread, team, model, adapters, cache, rotation, buffers, scratch):
        _ = digest
        step.decode_step(thread, team, model, adapters, cache, rotation, buffers, scratch)

    @jit(**options)
    def head_step(thread, team, linear, adapters, num_rows, width, buffers):
        _ = digest
        step.head_step(thread, team, linear, adapters, num_rows, width, buffers)

    @jit(**options)
    def choose_greedily(
        thread, team, logits, row_floats, num_rows, vocab_size, partial, tokens, logprobs
    ):
        _ = digest
        choice.choose_greedily(
            thread, team, logits, row_floats, num_rows, vocab_size, partial, tokens, logprobs
        )

    @jit(**options)
    def attend(thread, team, heads, norms, how, rotation, layer, rows, scratch, out):
        _ = digest
        attention.attend_alone(thread, team, heads, norms, how, rotation, layer, rows, scratch, out)

    return Kernels(decode_step, head_step, choose_greedily, attend)
