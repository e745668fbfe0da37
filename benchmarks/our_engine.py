"""Our engine in this process, in the one place that knows how it is constructed."""

from __future__ import annotations

from pathlib import Path

import torch
from tinsmith.domain.ops import AdamParams, LoraConfig, OptimStep
from tinsmith.engine.adapter import AdapterState
from tinsmith.engine.base_model import BaseModel
from tinsmith.engine.trainer import Trainer, TrainingSettings
from tinsmith.engine.training_state import TrainingState


def make_trainer(
    directory: str | Path,
    dtype: str,
    device: str,
    rank: int,
    *,
    own_layers: bool = True,
    **settings: int | bool,
) -> Trainer:
    """A new run on the base model, its adapter on all linear layers but the output layer.

    Args:
        settings: of tinsmith.engine.trainer.TrainingSettings.
    """
    base = BaseModel.load(directory, device, getattr(torch, dtype), own_layers=own_layers)
    lora = LoraConfig(rank=rank, seed=0, train_unembed=False)
    state = TrainingState(AdapterState.create(base, lora))
    return Trainer(base, state, TrainingSettings(**settings))


def adam(learning_rate: float) -> OptimStep:
    """The same as torch.optim.AdamW with its own defaults."""
    return OptimStep(AdamParams(learning_rate=learning_rate, beta2=0.999, eps=1e-8))
