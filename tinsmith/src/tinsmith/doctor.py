"""What this machine offers, and what would be in the way: `tinsmith doctor`."""

from __future__ import annotations

import os
import platform
import shutil
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tinsmith.base_models import BUILTIN_DIRECTORY, BUILTIN_NAME, resolve
from tinsmith.config import Config
from tinsmith.domain.errors import InvalidInputError
from tinsmith.obstacles import existing_parent, find_obstacles

if TYPE_CHECKING:
    import torch

PACKAGES = ("tinsmith", "torch", "transformers", "safetensors", "starlette", "sqlalchemy")


def examine(config: Config) -> dict[str, Any]:
    """Facts by name, JSON-ready. Imports torch and measures, so it takes a few seconds."""
    from tinsmith.engine.devices import (
        SMALL_MODEL_PARAMETERS,
        choose_device,
        choose_dtype,
        describe_device,
        product_gflops,
    )
    from tinsmith.engine.free_memory import free_bytes as free_device_bytes
    from tinsmith.engine.free_memory import free_host_bytes

    device = choose_device(config.engine.device)
    large = choose_dtype(config.engine.dtype, device, SMALL_MODEL_PARAMETERS)
    small = choose_dtype(config.engine.dtype, device, 0)
    reason = large.reason
    if small.dtype != large.dtype:
        reason += f"; {small.name} for models with {small.reason}"
    free_bytes = shutil.disk_usage(existing_parent(config.home)).free
    facts: dict[str, Any] = {
        "default_model": BUILTIN_NAME,
        "default_model_dir": str(BUILTIN_DIRECTORY),
        "home": str(config.home),
        "home_free_bytes": free_bytes,
        "database": "postgresql" if config.database else "sqlite",
        "free_memory_bytes": free_host_bytes(),
        "free_device_bytes": free_device_bytes(device),
        "python": platform.python_version(),
        "platform": platform.platform(),
        "cpu_count": os.cpu_count(),
        "device": str(device),
        "device_facts": describe_device(device),
        "dtype": large.name,
        "dtype_reason": reason,
        "product_gflops": product_gflops(device),
        "packages": {name: version(name) for name in PACKAGES},
    }
    facts["problems"] = [*find_obstacles(config), *_too_large_models(config, device, facts)]
    return facts


def measure_quantization(config: Config, model: str) -> dict[str, Any]:
    """What config.engine.quantize costs a model, as loss on a short text; loads it twice.

    Raises:
        InvalidInputError: no such model, one without a tokenizer, or it can't be quantised here.
    """
    from tinsmith.engine.devices import choose_device, choose_dtype
    from tinsmith.engine.loss_gap import measure_loss_gap
    from tinsmith.engine.model_files import count_parameters

    served = resolve(model)
    device = choose_device(config.engine.device)
    dtype = choose_dtype(config.engine.dtype, device, count_parameters(served.directory))
    found = measure_loss_gap(served.directory, device, dtype.dtype, config.engine.quantize)
    return {
        "model": served.name,
        "quantize": config.engine.quantize,
        "num_tokens": found.num_tokens,
        "loss": found.loss,
        "quantized_loss": found.quantized_loss,
        "gap": found.gap,
    }


def _too_large_models(config: Config, device: torch.device, facts: dict[str, Any]) -> Iterator[str]:
    """Of those that are on this machine as folders; nothing is downloaded for it."""
    from tinsmith.engine.devices import choose_dtype
    from tinsmith.engine.model_files import count_parameters

    for choice in config.models:
        folder = Path(choice.partition("=")[2] or choice).expanduser()
        if not folder.is_dir() or config.engine.quantize:
            continue
        try:
            num_parameters = count_parameters(folder)
        except InvalidInputError as error:
            yield str(error)
            continue
        dtype = choose_dtype(config.engine.dtype, device, num_parameters).dtype
        num_bytes = num_parameters * dtype.itemsize
        if num_bytes > facts["free_device_bytes"]:
            yield (
                f"the weights of {choice} take {num_bytes / 2**30:.1f} GiB, and "
                f"{facts['free_device_bytes'] / 2**30:.1f} GiB are free on {device}. Free some, "
                "or keep them in few bits: --quantize 8bit or 4bit."
            )
