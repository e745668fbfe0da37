"""Tiny models of real architectures with random weights, saved and loaded like any other."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from tinsmith.domain.datum import Datum
from tinsmith.domain.ops import ForwardBackward, LoraConfig
from tinsmith.engine.adapter import AdapterState
from tinsmith.engine.base_model import BaseModel
from transformers import (
    AutoModelForCausalLM,
    Gemma2Config,
    Gemma3TextConfig,
    LlamaConfig,
    MixtralConfig,
    PreTrainedConfig,
    Qwen2Config,
    Qwen3Config,
    Qwen3MoeConfig,
)

VOCAB_SIZE = 97
SHAPE = {
    "vocab_size": VOCAB_SIZE,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 64,
    "eos_token_id": 1,
    "bos_token_id": 2,
    "pad_token_id": 0,
    "initializer_range": 0.3,  # large enough for every layer to matter
}
CONFIGS: dict[str, Callable[[], PreTrainedConfig]] = {
    "qwen3": lambda: Qwen3Config(**SHAPE, head_dim=16, tie_word_embeddings=False),
    "qwen2_5": lambda: Qwen2Config(**SHAPE, tie_word_embeddings=True),
    "llama": lambda: LlamaConfig(**SHAPE, tie_word_embeddings=False),
    "smollm": lambda: LlamaConfig(
        **{**SHAPE, "hidden_size": 36, "num_attention_heads": 9, "num_key_value_heads": 3},
        tie_word_embeddings=True,
    ),
    "qwen3_moe": lambda: Qwen3MoeConfig(
        **SHAPE,
        head_dim=16,
        moe_intermediate_size=24,
        num_experts=5,
        num_experts_per_tok=2,
        norm_topk_prob=True,
        tie_word_embeddings=False,
    ),
    "mixtral": lambda: MixtralConfig(**SHAPE, num_local_experts=4, num_experts_per_tok=2),
    # A window shorter than the sequences, attention and final logits with a softcap.
    "gemma2": lambda: Gemma2Config(
        **SHAPE,
        head_dim=16,
        sliding_window=5,
        attn_logit_softcapping=2.0,
        final_logit_softcapping=3.0,
        query_pre_attn_scalar=16,
    ),
    "gemma3": lambda: Gemma3TextConfig(
        **SHAPE, head_dim=16, sliding_window=5, query_pre_attn_scalar=16
    ),
}


@pytest.fixture(scope="session")
def model_dir(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Name of an architecture above -> folder with its weights."""
    made: dict[str, Path] = {}

    def folder(name: str) -> Path:
        if name not in made:
            torch.manual_seed(0)
            model = AutoModelForCausalLM.from_config(CONFIGS[name](), dtype=torch.float32)
            with torch.no_grad():
                for parameter in model.parameters():
                    if parameter.ndim == 1:  # norms and biases start as constants
                        parameter.add_(torch.randn_like(parameter) * 0.1)
            made[name] = tmp_path_factory.mktemp(name)
            model.save_pretrained(made[name])
        return made[name]

    return folder


@pytest.fixture(scope="session")
def base_of(model_dir: Callable[[str], Path]) -> Callable[[str], BaseModel]:
    """Name of an architecture above -> our loaded base model."""
    loaded: dict[str, BaseModel] = {}

    def base(name: str) -> BaseModel:
        if name not in loaded:
            loaded[name] = BaseModel.load(model_dir(name), "cpu", torch.float32)
        return loaded[name]

    return base


@pytest.fixture
def tiny_qwen3(base_of: Callable[[str], BaseModel]) -> BaseModel:
    return base_of("qwen3")


@pytest.fixture
def trained_adapter() -> Callable[..., AdapterState]:
    """(base, lora) -> an adapter whose B is not zero, as after some training."""

    def make(base: BaseModel, lora: LoraConfig) -> AdapterState:
        adapter = AdapterState.create(base, lora)
        generator = torch.Generator().manual_seed(lora.seed + 1)
        noise = torch.randn(len(adapter.weights_P), generator=generator) * 0.05
        adapter.weights_P.add_(noise)
        return adapter

    return make


@pytest.fixture
def batch() -> Callable[..., ForwardBackward]:
    """(lengths, seed, ...) -> a cross_entropy op on random tokens with signed weights, a third
    of them zero."""

    def make(
        lengths: tuple[int, ...] = (11, 3, 17), seed: int = 0, **op: object
    ) -> ForwardBackward:
        rng = np.random.default_rng(seed)
        data = []
        for length in lengths:
            weights = rng.normal(size=length).astype(np.float32)
            weights[rng.random(length) < 1 / 3] = 0
            data.append(
                Datum(
                    rng.integers(0, VOCAB_SIZE, length).astype(np.int32),
                    {
                        "target_tokens": rng.integers(0, VOCAB_SIZE, length),
                        "weights": weights,
                    },
                )
            )
        return ForwardBackward(tuple(data), "cross_entropy", **op)  # type: ignore[arg-type]

    return make
