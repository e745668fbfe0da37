"""Which device an engine runs on, in which precision, and how fast it multiplies."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch

from tinsmith.domain.errors import InvalidInputError

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}
SMALL_MODEL_PARAMETERS = 50_000_000
"""Below this a model's time does not go into its matrix products."""

_FAST_BF16_FLAGS = ("amx_bf16", "avx512_bf16", "bf16", "sve_bf16")
"""Names of torch.cpu.get_capabilities(): two of x86, two of ARM."""
_TIMED_ROWS_AND_SIZE = {"cpu": (512, 1024)}
_TIMED_ON_GPU = (4096, 4096)
_TIMED_S = 0.2


@dataclass(frozen=True, slots=True)
class DtypeChoice:
    """The precision of the frozen base model."""

    dtype: torch.dtype
    reason: str
    """Half a sentence for a person."""

    @property
    def name(self) -> str:
        return str(self.dtype).removeprefix("torch.")


def choose_device(setting: str) -> torch.device:
    """`auto` prefers CUDA, then MPS, then the CPU.

    Raises:
        InvalidInputError: a device that is unknown or not here.
    """
    if setting == "auto":
        if torch.cuda.is_available():
            return torch.device("cuda")
        return torch.device("mps" if torch.backends.mps.is_available() else "cpu")
    available = {
        "cpu": True,
        "cuda": torch.cuda.is_available(),
        "mps": torch.backends.mps.is_available(),
    }
    if not available.get(setting.partition(":")[0], False):
        here = ", ".join(name for name, is_here in available.items() if is_here)
        raise InvalidInputError(f"device {setting!r} is not available; here are: {here}")
    return torch.device(setting)


def choose_dtype(setting: str, device: torch.device, num_parameters: int) -> DtypeChoice:
    """What is asked for, or for `auto` bf16 where the device multiplies it fast.

    Decided by what the device says of itself and never by timing, so that an engine that starts
    again computes as it did before.

    Args:
        num_parameters: of the base model; a small one gains nothing from bf16.

    Raises:
        InvalidInputError: anything but auto, float32 and bfloat16.
    """
    if setting in DTYPES:
        return DtypeChoice(DTYPES[setting], "as set")
    if setting != "auto":
        raise InvalidInputError(
            f"dtype {setting!r} is unknown; use one of auto, {', '.join(DTYPES)}"
        )
    if num_parameters < SMALL_MODEL_PARAMETERS:
        return DtypeChoice(
            torch.float32, f"fewer than {SMALL_MODEL_PARAMETERS // 10**6} million parameters"
        )
    is_fast, reason = _bf16_of(device)
    return DtypeChoice(torch.bfloat16 if is_fast else torch.float32, reason)


def _bf16_of(device: torch.device) -> tuple[bool, str]:
    if device.type == "cuda":
        major, minor = torch.cuda.get_device_capability(device)
        return major >= 8, f"compute capability {major}.{minor}, bf16 is fast from 8.0 on"
    if device.type == "cpu":
        return bf16_by_flags(_cpu_flags())
    return False, f"bf16 on {device.type} is not known to be fast"


def arithmetic_of(dtype: torch.dtype, device: torch.device) -> torch.dtype:
    """What to compute in with weights of this dtype: fp32 where bf16 would only be imitated."""
    if dtype == torch.bfloat16 and device.type == "cpu" and not _bf16_of(device)[0]:
        return torch.float32
    return dtype


def bf16_by_flags(flags: Mapping[str, Any]) -> tuple[bool, str]:
    """Whether a processor with these capabilities multiplies bf16 faster than fp32, and why."""
    found = [name for name in _FAST_BF16_FLAGS if flags.get(name)]
    if found:
        return True, f"the processor has {' and '.join(found)}"
    return False, "the processor has no bf16 products of its own"


def _cpu_flags() -> Mapping[str, Any]:
    if not torch.backends.mkldnn.is_available():  # without oneDNN torch uses none of them
        return {}
    if hasattr(torch.cpu, "get_capabilities"):
        return torch.cpu.get_capabilities()
    # torch 2.8 has no such list yet.
    return {
        "amx_bf16": torch.cpu._is_amx_tile_supported(),
        "avx512_bf16": torch.cpu._is_avx512_bf16_supported(),
    }


def product_gflops(device: torch.device) -> dict[str, float]:
    """GFLOP/s of a matrix product as large as a layer's, by name of the dtype: the best of the
    repetitions that fit into a fraction of a second."""
    return {name: round(product_rate(device, dtype) / 1e9, 1) for name, dtype in DTYPES.items()}


@cache
def product_rate(device: torch.device, dtype: torch.dtype) -> float:
    """Operations per second of such a product, measured once."""
    num_rows, size = _TIMED_ROWS_AND_SIZE.get(device.type, _TIMED_ON_GPU)
    x_TI = torch.ones(num_rows, size, device=device, dtype=dtype)
    weight_OI = torch.ones(size, size, device=device, dtype=dtype)
    best_s, until = float("inf"), time.perf_counter() + _TIMED_S
    while best_s == float("inf") or time.perf_counter() < until:
        started = time.perf_counter()
        # Fetching one number waits for a device that works on its own.
        float((x_TI @ weight_OI.T)[0, 0])
        best_s = min(best_s, time.perf_counter() - started)
    return 2 * num_rows * size**2 / best_s


def describe_device(device: torch.device) -> dict[str, Any]:
    """Name, threads and memory, JSON-ready."""
    if device.type == "cuda":
        properties = torch.cuda.get_device_properties(device)
        return {"name": properties.name, "memory_bytes": properties.total_memory}
    if device.type == "cpu":
        return {
            "threads": torch.get_num_threads(),
            "instructions": torch.backends.cpu.get_cpu_capability(),
        }
    return {}
