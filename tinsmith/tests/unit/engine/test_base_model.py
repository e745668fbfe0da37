from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from tinsmith.domain.errors import InvalidInputError
from tinsmith.domain.ops import ForwardBackward, LoraConfig
from tinsmith.engine.adapter import AdapterState
from tinsmith.engine.base_model import BaseModel
from tinsmith.engine.trainer import Trainer
from tinsmith.engine.training_state import TrainingState
from transformers import (
    AutoModelForCausalLM,
    BloomConfig,
    CohereConfig,
    DiffLlamaConfig,
    FalconConfig,
    GPT2Config,
    GraniteConfig,
    Phi3Config,
    PreTrainedConfig,
    Qwen2MoeConfig,
    Qwen3_5TextConfig,
    Qwen3MoeConfig,
)

SMALL = {
    "vocab_size": 97,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 64,
    "initializer_range": 0.3,
    "pad_token_id": 0,
    "bos_token_id": 2,
    "eos_token_id": 1,
}


def saved(config: PreTrainedConfig, folder: Path, **options: object) -> Path:
    torch.manual_seed(0)
    AutoModelForCausalLM.from_config(config).save_pretrained(folder, **options)  # type: ignore[arg-type]
    return folder


def test_it_knows_its_limits_and_ends(
    model_dir: Callable[[str], Path], tiny_qwen3: BaseModel
) -> None:
    assert tiny_qwen3.vocab_size == 97
    assert tiny_qwen3.context_limit == 64
    assert tiny_qwen3.hidden_size == 32
    assert tiny_qwen3.eos_token_ids == (1,)
    # 3 layers, keys and values, 2 heads of 16 numbers of 4 bytes
    assert tiny_qwen3.cache_bytes_per_token == 3 * 2 * 2 * 16 * 4
    assert not any(p.requires_grad for p in tiny_qwen3.model.parameters())


def test_every_end_that_either_configuration_names_counts(
    model_dir: Callable[[str], Path], tmp_path: Path
) -> None:
    folder = shutil.copytree(model_dir("qwen3"), tmp_path / "model")
    (folder / "generation_config.json").write_text(json.dumps({"eos_token_id": [7, 9]}))
    assert BaseModel.load(folder).eos_token_ids == (1, 7, 9)


def test_shards_load_like_one_file(tmp_path: Path, batch: Callable[..., ForwardBackward]) -> None:
    config = GraniteConfig(**SMALL)
    one = saved(config, tmp_path / "one")
    many = saved(config, tmp_path / "many", max_shard_size="20KB")
    assert len(list(many.glob("*.safetensors"))) > 2
    results = []
    for folder in (one, many):
        base = BaseModel.load(folder)
        state = TrainingState(AdapterState.create(base, LoraConfig(2, 0)))
        results.append(Trainer(base, state).forward_backward(batch(forward_only=True)))
    assert results[0].metrics == results[1].metrics


@pytest.mark.parametrize(
    "config",
    [
        CohereConfig(**SMALL, logit_scale=0.3),
        GraniteConfig(**SMALL, logits_scaling=3.0, attention_multiplier=0.2),
        Phi3Config(**SMALL, original_max_position_embeddings=64),
    ],
    ids=lambda config: config.model_type,
)
def test_logits_equal_the_models_own(
    config: PreTrainedConfig, tmp_path: Path, batch: Callable[..., ForwardBackward]
) -> None:
    folder = saved(config, tmp_path)
    base = BaseModel.load(folder)
    reference = AutoModelForCausalLM.from_pretrained(folder, attn_implementation="eager")
    op = batch(forward_only=True)
    state = TrainingState(AdapterState.create(base, LoraConfig(2, 0)))

    done = Trainer(base, state).forward_backward(op)

    for datum, logprobs in zip(op.data, done.logprobs, strict=True):
        with torch.no_grad():
            logits = reference(torch.from_numpy(datum.tokens.astype(np.int64))[None]).logits[0]
        targets = torch.from_numpy(datum.loss_fn_inputs["target_tokens"])[:, None]
        want = logits.log_softmax(-1).gather(1, targets)[:, 0]
        np.testing.assert_allclose(logprobs, want.numpy(), atol=1e-4)


def test_a_bf16_base_trains_with_fp32_adapters(
    model_dir: Callable[[str], Path],
    base_of: Callable[[str], BaseModel],
    batch: Callable[..., ForwardBackward],
) -> None:
    gradients = []
    bf16 = torch.bfloat16
    for base in (base_of("qwen3"), BaseModel.load(model_dir("qwen3"), dtype=bf16, arithmetic=bf16)):
        state = TrainingState(AdapterState.create(base, LoraConfig(4, 0)))
        Trainer(base, state).forward_backward(batch())
        assert state.gradient_P is not None and state.gradient_P.dtype == torch.float32
        gradients.append(state.gradient_P)
    # bf16 keeps 8 bits, and errors grow over three layers of large random weights.
    gap = (gradients[0] - gradients[1]).norm() / gradients[0].norm()
    assert gap < 0.2


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (GPT2Config(n_embd=32, n_layer=2, n_head=4), "c_attn is a Conv1D"),
        (
            Qwen2MoeConfig(**SMALL, moe_intermediate_size=24, num_experts=2),
            r"layers\.0\.mlp\.shared_expert.* is a feed-forward layer beside experts",
        ),
        (
            Qwen3MoeConfig(**SMALL, moe_intermediate_size=24, num_experts=2, mlp_only_layers=[0]),
            r"layers\.0\.mlp\.gate_proj is a feed-forward layer beside experts",
        ),
        (
            FalconConfig(hidden_size=32, num_hidden_layers=2, num_attention_heads=4),
            "let us replace",
        ),
        (
            BloomConfig(hidden_size=32, n_layer=2, n_head=4, max_position_embeddings=64),
            "differs from the model's own",
        ),
        # Packed prompts are right here; only the pass through the cache shows the difference.
        (DiffLlamaConfig(**SMALL), "differs from the model's own"),
        (
            Qwen3_5TextConfig(**{**SMALL, "layer_types": ["linear_attention", "full_attention"]}),
            r"layers of kind \['linear_attention'\]",
        ),
    ],
    ids=lambda value: value.model_type if isinstance(value, PreTrainedConfig) else "",
)
def test_kinds_that_we_would_compute_wrongly_are_refused(
    config: PreTrainedConfig, message: str, tmp_path: Path
) -> None:
    with pytest.raises(InvalidInputError, match=message):
        BaseModel.load(saved(config, tmp_path))


def test_missing_weights_are_refused_and_not_drawn_at_random(
    model_dir: Callable[[str], Path], tmp_path: Path
) -> None:
    folder = shutil.copytree(model_dir("qwen3"), tmp_path / "model")
    tensors = load_file(folder / "model.safetensors")
    del tensors["model.layers.1.mlp.up_proj.weight"]
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(InvalidInputError, match=r"lack 1 of .*layers\.1\.mlp\.up_proj\.weight"):
        BaseModel.load(folder)


def test_damaged_weights_are_refused(model_dir: Callable[[str], Path], tmp_path: Path) -> None:
    folder = shutil.copytree(model_dir("qwen3"), tmp_path / "model")
    tensors = load_file(folder / "model.safetensors")
    tensors["model.norm.weight"][3] = float("nan")
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(InvalidInputError, match="weights are damaged"):
        BaseModel.load(folder)


@pytest.mark.parametrize("what", ["nothing", "no_weights", "torn_file", "pickled_weights"])
def test_a_folder_without_readable_weights_is_refused(
    what: str, model_dir: Callable[[str], Path], tmp_path: Path
) -> None:
    folder = tmp_path / "model"
    if what != "nothing":
        shutil.copytree(model_dir("qwen3"), folder)
        weights = folder / "model.safetensors"
        if what == "torn_file":
            weights.write_bytes(weights.read_bytes()[:500])
        else:
            tensors = load_file(weights)
            weights.unlink()
            if what == "pickled_weights":
                torch.save(tensors, folder / "pytorch_model.bin")
    with pytest.raises(InvalidInputError, match=str(folder)):
        BaseModel.load(folder)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_experts_that_compute_something_else_than_ours_are_refused(
    dtype: torch.dtype, model_dir: Callable[[str], Path]
) -> None:
    model = AutoModelForCausalLM.from_pretrained(model_dir("qwen3_moe"), dtype=dtype)
    experts = model.get_submodule("model.layers.1.mlp.experts")
    theirs = experts.forward
    experts.forward = lambda *inputs: theirs(*inputs).clamp(max=0.01)
    with pytest.raises(InvalidInputError, match=r"layers\.1\.mlp\.experts .*differ"):
        BaseModel(model, torch.device("cpu"))
