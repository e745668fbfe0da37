"""The likeliest token of every row and its log-probability, in one pass over the logits.

Shape suffixes: B rows, V vocabulary, C chunks of it.
"""

# pyright: reportIndexIssue=false, reportAttributeAccessIssue=false
from __future__ import annotations

import math
from typing import Any

import numpy as np

from tinsmith.nn.compiled.elementwise import exp, largest_of
from tinsmith.nn.compiled.memory import barrier, floats, ticket
from tinsmith.nn.compiled.vectors import jit

CHUNK = 4096
"""Tokens of a piece of work: what stays in the first level of the cache for the second look."""


@jit(fastmath={"reassoc", "nsz"})
def _sum_of_exponentials(x: Any, highest: Any) -> Any:
    total = np.float32(0)
    for i in range(x.size):
        total += exp(x[i] - highest)
    return total


@jit
def _has_nan(x: Any) -> bool:
    count = 0
    for i in range(x.size):
        count += x[i] != x[i]
    return count > 0


@jit
def _first_of(x: Any, value: Any) -> int:
    """Where the value is, or the first NaN if it is one."""
    for i in range(x.size):
        if x[i] == value or (value != value and x[i] != x[i]):
            return i
    return 0


@jit(inline="always")
def choose_greedily(
    thread: int,
    team: Any,
    logits: int,
    row_floats: int,
    num_rows: int,
    vocab_size: int,
    partial: Any,
    tokens_B: Any,
    logprobs_B: Any,
) -> None:
    """A thread's share; a NaN counts as the largest, as torch.argmax has it.

    Args:
        team: see decode_step, with one ticket.
        logits: address of fp32 [B, V], and how far one row's start is from the next's.
        partial: fp64 [2, B, C], for the chunks' maxima and sums of exponentials.
        tokens_B: int64, the lowest id among equals.
        logprobs_B: fp32.
    """
    num_threads, arrivals, tickets = team
    num_chunks = (vocab_size + CHUNK - 1) // CHUNK
    while True:
        number = ticket(tickets, 0)
        if number >= num_rows * num_chunks:
            break
        row, chunk = number // num_chunks, number % num_chunks
        start = chunk * CHUNK
        count = min(CHUNK, vocab_size - start)
        x = floats(logits + 4 * (row * row_floats + start), count)
        if _has_nan(x):
            partial[0, row, chunk] = np.nan
        else:
            highest = largest_of(x)
            partial[0, row, chunk] = highest
            partial[1, row, chunk] = _sum_of_exponentials(x, highest)
    barrier(arrivals, num_threads)
    if thread == 0:
        for row in range(num_rows):
            best = 0
            for chunk in range(num_chunks):
                value, highest = partial[0, row, chunk], partial[0, row, best]
                if highest == highest and (value != value or value > highest):
                    best = chunk
            highest, total = partial[0, row, best], 0.0
            for chunk in range(num_chunks):
                total += partial[1, row, chunk] * math.exp(partial[0, row, chunk] - highest)
            start = best * CHUNK
            count = min(CHUNK, vocab_size - start)
            x = floats(logits + 4 * (row * row_floats + start), count)
            tokens_B[row] = start + _first_of(x, np.float32(highest))
            logprobs_B[row] = -math.log(total) if math.isfinite(highest) else np.nan
