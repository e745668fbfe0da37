"""A base model as the settings want it, and torch set up so that the same work gives the same
bits."""

from __future__ import annotations

import torch

from tinsmith.config import Engine as EngineSettings
from tinsmith.domain.records import ServedModel
from tinsmith.engine.base_model import BaseModel
from tinsmith.engine.devices import choose_device, choose_dtype
from tinsmith.engine.model_files import count_parameters


def compute_deterministically() -> None:
    """For the whole process, before anything is computed."""
    torch.use_deterministic_algorithms(True, warn_only=True)
    # Else every new tensor is filled with NaN first, which costs a pass over memory and shows
    # nothing: the tests would see whatever is read before it is written.
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]


def load_base_model(served: ServedModel, settings: EngineSettings) -> tuple[BaseModel, str]:
    """The model on its device, and the name of its precision.

    Raises:
        TinsmithError, OSError, ValueError, RuntimeError: it can't be loaded.
    """
    device = choose_device(settings.device)
    dtype = choose_dtype(settings.dtype, device, count_parameters(served.directory))
    model = BaseModel.load(
        served.directory,
        device,
        dtype.dtype,
        quantize=settings.quantize,
        trust_remote_code=served.name in settings.trust_remote_code,
    )
    return model, dtype.name
