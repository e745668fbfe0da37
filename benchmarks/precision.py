"""Which precision a benchmark runs in: bf16 where it is worth it, and why."""

from __future__ import annotations

import argparse

FAST_BF16 = ("amx_bf16", "avx512_bf16")
"""Instructions that multiply bf16 faster than fp32."""


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--dtype", choices=["auto", "float32", "bfloat16"], default="auto")
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")


def choose(dtype: str, device: str) -> tuple[str, str]:
    """torch's name for the precision, and the reason for it."""
    import torch

    if device == "cuda" and not torch.cuda.is_available():
        raise SystemExit("--device cuda: torch finds no CUDA device here; use --device cpu")
    if dtype != "auto":
        return dtype, "as asked for"
    if device == "cuda":
        return "bfloat16", "a GPU multiplies it fast"
    offered = getattr(torch.cpu, "get_capabilities", dict)()
    found = [name for name in FAST_BF16 if offered.get(name)]
    if found:
        return "bfloat16", f"the processor has {' and '.join(found)}"
    return "float32", f"the processor has none of {', '.join(FAST_BF16)}"
