"""Our engine in this process, in the one place that knows how it is constructed."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from tinsmith.config import Engine as EngineSettings
from tinsmith.domain.ops import AdamParams, LoraConfig, OptimStep, Sample, SamplingParams
from tinsmith.domain.outcomes import Sampled, Succeeded
from tinsmith.engine.adapter import AdapterState, FrozenAdapter
from tinsmith.engine.base_model import BaseModel
from tinsmith.engine.planning import planned_sampler
from tinsmith.engine.sampler import Sampler
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


def make_sampler(base: BaseModel) -> Sampler:
    """As the server plans it for this model and machine, but for stop strings."""
    return planned_sampler(base, EngineSettings(), None, weights={})


def greedy(prompt: Sequence[int], num_tokens: int) -> Sample:
    """Exactly so many of the likeliest tokens, whatever they are."""
    params = SamplingParams(max_tokens=num_tokens, temperature=0.0, stop_at_eos=False)
    return Sample(np.array(prompt, np.int32), params)


def drawn(prompt: Sequence[int], num_tokens: int, seed: int) -> Sample:
    """Exactly so many drawn tokens, with the prompt scored as well."""
    params = SamplingParams(max_tokens=num_tokens, seed=seed, stop_at_eos=False)
    return Sample(np.array(prompt, np.int32), params, prompt_logprobs=True)


def sampled(
    sampler: Sampler, samples: Sequence[Sample], adapter: FrozenAdapter | None = None
) -> list[Sampled]:
    """Their results, in the order of the samples; all are there from the start."""
    for number, sample in enumerate(samples):
        sampler.add(str(number), sample, adapter)
    results: dict[str, Sampled] = {}
    while sampler.num_waiting or sampler.num_active:
        for request_id, outcome in sampler.step():
            if not isinstance(outcome, Succeeded) or not isinstance(outcome.result, Sampled):
                raise SystemExit(f"a sample failed: {outcome}")
            results[request_id] = outcome.result
    return [results[str(number)] for number in range(len(samples))]
