"""What must hold on a GPU as well: run by `pytest -m gpu` where there is one."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from tinsmith.domain.datum import Datum
from tinsmith.domain.ops import AdamParams, ForwardBackward, LoraConfig, OptimStep
from tinsmith.engine.adapter import AdapterState
from tinsmith.engine.base_model import BaseModel
from tinsmith.engine.trainer import Trainer, TrainingSettings
from tinsmith.engine.training_state import TrainingState

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA device"),
]
VOCAB_SIZE = 97
LORA = LoraConfig(rank=8, seed=3, train_unembed=False)


def shared_heads() -> ForwardBackward:
    rng = np.random.default_rng(0)
    head = rng.integers(0, VOCAB_SIZE, 20)
    data = []
    for length in (9, 30, 17):
        tokens = np.concatenate([head, rng.integers(0, VOCAB_SIZE, length)])
        weights = np.ones(len(tokens), np.float32)
        weights[:20] = 0
        inputs = {"target_tokens": np.roll(tokens, -1), "weights": weights}
        data.append(Datum(tokens.astype(np.int32), inputs))
    return ForwardBackward(tuple(data), "cross_entropy")


def gradient(base: BaseModel, settings: TrainingSettings | None = None) -> np.ndarray:
    adapter = AdapterState.create(base, LORA)
    noise = torch.randn(len(adapter.weights_P), generator=torch.Generator().manual_seed(1)) * 0.05
    adapter.weights_P.add_(noise.to(base.device))
    state = TrainingState(adapter)
    Trainer(base, state, settings).forward_backward(shared_heads())
    assert state.gradient_P is not None
    return state.gradient_P.cpu().numpy()


def far(ours: np.ndarray, wanted: np.ndarray) -> float:
    return float(np.linalg.norm(ours - wanted) / np.linalg.norm(wanted))


@pytest.mark.parametrize("name", ["qwen3", "qwen2_5", "llama", "gemma2", "gemma3"])
@pytest.mark.parametrize(
    "settings",
    [
        TrainingSettings(),
        TrainingSettings(share_prefixes=False),
        TrainingSettings(checkpointing=True),
        TrainingSettings(zero_weight_logprobs=False),
    ],
    ids=["as_shipped", "sharing_off", "recomputed", "weighted_only"],
)
def test_gradients_equal_those_of_the_cpu_in_fp32(
    name: str, settings: TrainingSettings, model_dir: Callable[[str], Path]
) -> None:
    wanted = gradient(BaseModel.load(model_dir(name), "cpu", torch.float32), settings)
    ours = gradient(BaseModel.load(model_dir(name), "cuda", torch.float32), settings)
    assert far(ours, wanted) < 1e-3


def test_bf16_stays_near_fp32(model_dir: Callable[[str], Path]) -> None:
    wanted = gradient(BaseModel.load(model_dir("qwen3"), "cpu", torch.float32))
    ours = gradient(BaseModel.load(model_dir("qwen3"), "cuda", torch.bfloat16))
    assert far(ours, wanted) < 0.1


def test_training_twice_gives_the_same_bits_with_deterministic_kernels(
    model_dir: Callable[[str], Path],
) -> None:
    base = BaseModel.load(model_dir("qwen3"), "cuda", torch.bfloat16)
    torch.use_deterministic_algorithms(True, warn_only=True)
    results = []
    for _ in range(2):
        state = TrainingState(AdapterState.create(base, LORA))
        trainer = Trainer(base, state)
        for _ in range(3):
            trainer.forward_backward(shared_heads())
            trainer.optim_step(OptimStep(AdamParams(learning_rate=1e-2)))
        results.append(state.adapter.weights_P.clone())
    torch.use_deterministic_algorithms(False)
    assert torch.equal(*results)
