"""What this machine offers, and what would be in the way: `tinsmith doctor`."""

from __future__ import annotations

import os
import platform
import shutil
from importlib.metadata import version
from pathlib import Path
from typing import Any

from tinsmith.base_models import BUILTIN_DIRECTORY, BUILTIN_NAME, resolve
from tinsmith.config import Config

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

    device = choose_device(config.engine.device)
    large = choose_dtype(config.engine.dtype, device, SMALL_MODEL_PARAMETERS)
    small = choose_dtype(config.engine.dtype, device, 0)
    reason = large.reason
    if small.dtype != large.dtype:
        reason += f"; {small.name} for models with {small.reason}"
    free_bytes = shutil.disk_usage(_existing_parent(config.home)).free
    facts: dict[str, Any] = {
        "default_model": BUILTIN_NAME,
        "default_model_dir": str(BUILTIN_DIRECTORY),
        "home": str(config.home),
        "home_free_bytes": free_bytes,
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
    facts["problems"] = _problems(facts)
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


def _problems(facts: dict[str, Any]) -> list[str]:
    problems: list[str] = []
    if facts["home_free_bytes"] < 2**30:
        problems.append(
            f"only {facts['home_free_bytes'] / 2**20:.0f} MiB are free for {facts['home']}; "
            "checkpoints may not fit. Choose another --home or free some space."
        )
    if not Path(facts["default_model_dir"], "model.safetensors").is_file():
        problems.append("the built-in model's weights are missing; reinstall tinsmith")
    return problems


def _existing_parent(path: Path) -> Path:
    path = path.resolve()
    while not path.exists():
        path = path.parent
    return path
