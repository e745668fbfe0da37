"""Which device an engine runs on, and in which precision."""

from __future__ import annotations

from typing import Any

import torch

from tinsmith.domain.errors import InvalidInputError

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}


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


def choose_dtype(setting: str) -> torch.dtype:
    """Raises InvalidInputError for anything but float32 and bfloat16."""
    if setting not in DTYPES:
        raise InvalidInputError(f"dtype {setting!r} is unknown; use one of {', '.join(DTYPES)}")
    return DTYPES[setting]


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
