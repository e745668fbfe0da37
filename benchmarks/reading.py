"""How fast memory is read here and now, and how much of it a decode step has to read."""

from __future__ import annotations

import time

from shapes import Shape

NUM_BYTES = {"cpu": 2**30, "cuda": 2**33}
"""Read at a time: several times what the caches hold."""
REPEATS = 6


def read_rate(device: str) -> float:
    """Bytes a second, with torch's own number of threads: the best of three ways to read a large
    tensor once, several times each. The memory is touched before."""
    import torch

    values = torch.ones(NUM_BYTES[device] // 4, device=device)
    half = len(values) // 2
    rows, ones = values.view(-1, 4096), torch.ones(4096, device=device)
    ways = (
        lambda: values.sum(),
        lambda: torch.dot(values[:half], values[half:]),
        lambda: torch.mv(rows, ones),
    )
    best_s = float("inf")
    for way in ways:
        for _ in range(REPEATS):
            started = time.perf_counter()
            way()
            if device != "cpu":
                torch.cuda.synchronize()
            best_s = min(best_s, time.perf_counter() - started)
    return values.nbytes / best_s


def step_bytes(
    shape: Shape, dtype: str, batch: int, context: float, weight_bytes: int | None = None
) -> float:
    """What one decode step reads once: the weights (the embedding is the output layer too), and
    keys and values of so many sequences that have no prefix in common.

    Args:
        context: tokens of a sequence, on average.
        weight_bytes: as they are held; None: what the shape has in this precision.
    """
    import torch

    item = getattr(torch, dtype).itemsize
    if weight_bytes is None:
        weight_bytes = item * shape.num_parameters
    return (
        weight_bytes + item * batch * context * 2 * shape.layers * shape.kv_heads * shape.head_dim
    )
