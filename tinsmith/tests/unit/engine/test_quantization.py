from __future__ import annotations

import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from tinsmith.domain.errors import InvalidInputError
from tinsmith.domain.ops import ForwardBackward, LoraConfig
from tinsmith.engine.adapter import AdapterState
from tinsmith.engine.base_model import BaseModel
from tinsmith.engine.quantization import check_quantization
from tinsmith.engine.target_modules import Part
from tinsmith.engine.trainer import Trainer
from tinsmith.engine.training_state import TrainingState
from tinsmith.nn.lora import AdapterLinear
from torch import Tensor
from transformers import AutoModelForCausalLM

TrainedAdapter = Callable[[BaseModel, LoraConfig], AdapterState]
pytest.importorskip("bitsandbytes", reason="the extra tinsmith[quantized] is not installed")


def with_weights_of(quantized: BaseModel, source: Path, folder: Path) -> Path:
    """A copy of the model in `source` whose weights are what the quantised base multiplies with."""
    shutil.copytree(source, folder)
    tensors = load_file(source / "model.safetensors")
    for target in quantized.targets:
        module = quantized.model.get_submodule(target.path)
        assert isinstance(module, AdapterLinear)
        if target.part is not Part.UNEMBED:
            tensors[f"{target.path}.weight"] = module.quantized.frozen_weight()
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


@pytest.mark.parametrize("quantize", ["8bit", "4bit"])
@pytest.mark.parametrize(
    ("name", "own_layers"), [("qwen3", True), ("qwen3", False), ("qwen2_5", True), ("gemma2", True)]
)
def test_gradients_are_those_of_a_model_with_the_dequantised_weights(
    name: str,
    own_layers: bool,
    quantize: str,
    model_dir: Callable[[str], Path],
    trained_adapter: TrainedAdapter,
    batch: Callable[..., ForwardBackward],
    tmp_path: Path,
) -> None:
    quantized = BaseModel.load(
        model_dir(name), dtype=torch.float32, own_layers=own_layers, quantize=quantize
    )
    plain = BaseModel.load(
        with_weights_of(quantized, model_dir(name), tmp_path / "plain"),
        dtype=torch.float32,
        own_layers=own_layers,
    )
    assert (quantized.quantization, plain.quantization) == (quantize, "")
    results, gradients = [], []
    for base in (quantized, plain):
        state = TrainingState(trained_adapter(base, LoraConfig(4, 0, train_unembed=True)))
        results.append(Trainer(base, state).forward_backward(batch()))
        gradients.append(state.gradient_P)
    assert results[0].metrics == results[1].metrics
    assert gradients[0] is not None and gradients[0].any()
    assert torch.equal(gradients[0], gradients[1])


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA device")
@pytest.mark.parametrize("quantize", ["8bit", "4bit"])
def test_a_gpu_multiplies_with_the_same_weights(
    quantize: str, model_dir: Callable[[str], Path]
) -> None:
    weights = []
    for device in ("cpu", "cuda"):
        base = BaseModel.load(model_dir("qwen3"), device, torch.float32, quantize=quantize)
        module = base.model.get_submodule(base.targets[0].path)
        assert isinstance(module, AdapterLinear)
        weights.append(module.quantized.frozen_weight().cpu())
    # Each device's kernel rounds on its own where a weight lies half way between two levels.
    assert ((weights[0] - weights[1]).abs() > 1e-6).float().mean() < 0.01


@pytest.mark.parametrize("name", ["qwen3", "gemma2"])
def test_no_dequantised_weight_waits_for_backward(
    name: str, model_dir: Callable[[str], Path], batch: Callable[..., ForwardBackward]
) -> None:
    base = BaseModel.load(model_dir(name), dtype=torch.float32, quantize="4bit")
    trainer = Trainer(base, TrainingState(AdapterState.create(base, LoraConfig(4, 0))))
    kept: set[torch.Size] = set()

    def keep(tensor: Tensor) -> Tensor:
        kept.add(tensor.shape)
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        trainer.forward_backward(batch(lengths=(11, 3, 17)))
    weights = {
        torch.Size((target.num_outputs, target.num_inputs))
        for target in base.targets
        if target.part is not Part.UNEMBED
    }
    assert kept
    assert not kept & (weights | {size[::-1] for size in weights})


def test_all_but_the_linear_layers_is_in_the_compute_dtype(
    model_dir: Callable[[str], Path], tmp_path: Path
) -> None:
    model = AutoModelForCausalLM.from_pretrained(model_dir("qwen3"), dtype=torch.bfloat16)
    model.save_pretrained(tmp_path)
    stored = load_file(tmp_path / "model.safetensors")
    for dtype in (torch.float32, torch.bfloat16):
        base = BaseModel.load(tmp_path, dtype=dtype, quantize="8bit")
        assert base.dtype == dtype
        held = dict(base.model.named_parameters())
        assert set(held) < set(stored)
        assert not [name for name in held if "_proj" in name]
        for name in ("model.embed_tokens.weight", "model.norm.weight", "lm_head.weight"):
            assert torch.equal(held[name], stored[name].to(dtype))
        for buffer in ("inv_freq", "original_inv_freq"):
            assert base.model.get_buffer(f"model.rotary_emb.{buffer}").dtype == torch.float32


def test_tied_embeddings_stay_one_tensor(model_dir: Callable[[str], Path]) -> None:
    base = BaseModel.load(model_dir("qwen2_5"), dtype=torch.bfloat16, quantize="4bit")
    head, embedding = base.model.get_output_embeddings(), base.model.get_input_embeddings()
    assert isinstance(head, AdapterLinear)
    assert head.weight.data_ptr() == embedding.weight.data_ptr()


def test_without_the_library_the_error_names_the_extra(
    monkeypatch: pytest.MonkeyPatch, model_dir: Callable[[str], Path]
) -> None:
    monkeypatch.setitem(sys.modules, "bitsandbytes", None)  # what Python does for a missing module
    with pytest.raises(InvalidInputError, match=r"pip install 'tinsmith\[quantized\]'"):
        BaseModel.load(model_dir("qwen3"), quantize="4bit")


@pytest.mark.parametrize(
    ("quantize", "device", "message"),
    [("3bit", "cpu", "'3bit' is unknown; use one of 8bit, 4bit"), ("8bit", "mps", "cpu, cuda")],
)
def test_what_cannot_be_quantised_is_refused(quantize: str, device: str, message: str) -> None:
    with pytest.raises(InvalidInputError, match=message):
        check_quantization(quantize, torch.device(device))


def test_weights_of_a_kind_that_cannot_be_quantised_are_refused(
    model_dir: Callable[[str], Path], tmp_path: Path
) -> None:
    folder = shutil.copytree(model_dir("qwen3"), tmp_path / "model")
    tensors = load_file(folder / "model.safetensors")
    eighths = {name: tensor.to(torch.float8_e4m3fn) for name, tensor in tensors.items()}
    save_file(eighths, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(InvalidInputError, match=r"stored as F8_E4M3; .* F32, BF16, F16"):
        BaseModel.load(folder, quantize="8bit")


def test_a_model_of_experts_is_not_quantised_in_part(model_dir: Callable[[str], Path]) -> None:
    with pytest.raises(InvalidInputError, match=r"mlp\.experts .*cannot be quantised"):
        BaseModel.load(model_dir("qwen3_moe"), quantize="8bit")
