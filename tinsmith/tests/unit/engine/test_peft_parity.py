"""Our loss and gradients against transformers + PEFT, which pads nothing and packs nothing here."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import peft
import pytest
import torch
from beside_peft import in_peft
from tinsmith.domain.ops import ForwardBackward, LoraConfig
from tinsmith.engine.adapter import AdapterState
from tinsmith.engine.base_model import BaseModel
from tinsmith.engine.trainer import Trainer, TrainingSettings
from tinsmith.engine.training_state import TrainingState

ARCHITECTURES = ["qwen3", "qwen2_5", "llama", "smollm", "gemma2", "gemma3", "qwen3_moe", "mixtral"]


def peft_loss(
    model: peft.PeftModel, op: ForwardBackward
) -> tuple[torch.Tensor, list[torch.Tensor]]:
    loss, logprobs = torch.zeros(()), []
    for datum in op.data:
        tokens = torch.from_numpy(datum.tokens.astype(np.int64))[None]
        targets = torch.from_numpy(datum.loss_fn_inputs["target_tokens"])
        logits = model(input_ids=tokens).logits[0]
        lp = logits.log_softmax(-1).gather(1, targets[:, None])[:, 0]
        loss = loss - (torch.from_numpy(datum.loss_fn_inputs["weights"]) * lp).sum()
        logprobs.append(lp.detach())
    return loss, logprobs


@pytest.mark.parametrize("train_unembed", [True, False], ids=["with_head", "without_head"])
@pytest.mark.parametrize("name", ARCHITECTURES)
def test_loss_and_every_gradient_equal_peft(
    name: str,
    train_unembed: bool,
    base_of: Callable[[str], BaseModel],
    model_dir: Callable[[str], Path],
    trained_adapter: Callable[..., AdapterState],
    batch: Callable[..., ForwardBackward],
) -> None:
    base = base_of(name)
    adapter = trained_adapter(base, LoraConfig(rank=4, seed=3, train_unembed=train_unembed))
    op = batch()
    reference = in_peft(model_dir(name), adapter)
    wanted_loss, wanted_logprobs = peft_loss(reference, op)
    wanted_loss.backward()

    # Two micro-batches, the first of two sequences.
    state = TrainingState(adapter)
    done = Trainer(base, state, TrainingSettings(token_budget=16)).forward_backward(op)

    # Tolerances: the figures that issue A asks for in fp32.
    assert done.metrics["loss:sum"] == pytest.approx(wanted_loss.item(), rel=1e-5)
    for ours, wanted in zip(done.logprobs, wanted_logprobs, strict=True):
        np.testing.assert_allclose(ours, wanted.numpy(), atol=1e-4)
    assert state.gradient_P is not None
    gradients = adapter.layout.to_arrays(state.gradient_P)
    checked = set()
    for parameter_name, parameter in reference.named_parameters():
        if parameter.requires_grad:
            ours = gradients[parameter_name.replace(".default", "")]
            assert parameter.grad is not None
            wanted = parameter.grad.numpy()
            gap = np.linalg.norm(ours - wanted) / np.linalg.norm(wanted)
            assert gap < 1e-4, f"{parameter_name}: {gap:.2g}"
            checked.add(parameter_name.replace(".default", ""))
    assert checked == set(gradients)
    assert any("lm_head" in parameter_name for parameter_name in checked) == train_unembed


@pytest.mark.parametrize("switch", ["train_attn", "train_mlp"])
def test_peft_finds_exactly_the_layers_of_one_switch(
    switch: str,
    tiny_qwen3: BaseModel,
    model_dir: Callable[[str], Path],
    trained_adapter: Callable[..., AdapterState],
) -> None:
    off = {"train_attn": False, "train_mlp": False, "train_unembed": False}
    adapter = trained_adapter(tiny_qwen3, LoraConfig(rank=2, seed=0, **{**off, switch: True}))

    reference = in_peft(model_dir("qwen3"), adapter)

    wanted = {
        name.replace(".default", "")
        for name, parameter in reference.named_parameters()
        if parameter.requires_grad
    }
    assert wanted == set(adapter.to_arrays())
