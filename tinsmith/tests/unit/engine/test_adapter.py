from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from tinsmith.domain.errors import InvalidInputError
from tinsmith.domain.ops import AdamParams, ForwardBackward, LoraConfig, OptimStep
from tinsmith.engine.adapter import AdapterState, OptimizerState, load_frozen
from tinsmith.engine.base_model import BaseModel
from tinsmith.engine.trainer import Trainer
from tinsmith.engine.training_state import TrainingState


def test_the_seed_alone_decides_the_start(tiny_qwen3: BaseModel) -> None:
    first, again, other = (
        AdapterState.create(tiny_qwen3, LoraConfig(4, seed)).to_arrays() for seed in (5, 5, 6)
    )
    name = "base_model.model.model.layers.1.mlp.up_proj.lora_A.weight"
    assert all(first[key].tobytes() == again[key].tobytes() for key in first)
    assert first[name].tobytes() != other[name].tobytes()
    assert all(not array.any() for key, array in first.items() if "lora_B" in key)
    # Kaiming uniform with a = sqrt(5), as PEFT draws A: within 1 / sqrt(32 inputs).
    assert 0.15 < np.abs(first[name]).max() <= 1 / np.sqrt(32)


def test_negative_and_huge_seeds_are_seeds(tiny_qwen3: BaseModel) -> None:
    starts = {
        AdapterState.create(tiny_qwen3, LoraConfig(1, seed)).weights_P.numpy().tobytes()
        for seed in (-1, 2**63 - 2, 2**64 + 3)
    }
    assert len(starts) == 3


def test_a_new_adapter_changes_nothing(
    tiny_qwen3: BaseModel, batch: Callable[..., ForwardBackward]
) -> None:
    state = TrainingState(AdapterState.create(tiny_qwen3, LoraConfig(4, 0)))
    done = Trainer(tiny_qwen3, state).forward_backward(batch(forward_only=True))
    for datum, logprobs in zip(batch().data, done.logprobs, strict=True):
        tiny_qwen3.model.set_attn_implementation("eager")
        tokens = torch.from_numpy(datum.tokens.astype(np.int64))[None]
        with torch.no_grad():
            logits = tiny_qwen3.model(input_ids=tokens).logits[0]
        tiny_qwen3.model.set_attn_implementation("tinsmith_packed")
        targets = torch.from_numpy(datum.loss_fn_inputs["target_tokens"])[:, None]
        want = logits.log_softmax(-1).gather(1, targets)[:, 0]
        np.testing.assert_allclose(logprobs, want.numpy(), atol=1e-5)


@pytest.mark.parametrize(
    ("switches", "parts"),
    [
        ((True, True, True), {"self_attn", "mlp", "lm_head"}),
        ((True, False, False), {"self_attn"}),
        ((False, True, False), {"mlp"}),
        ((False, False, True), {"lm_head"}),
    ],
)
def test_the_switches_choose_the_layers(
    tiny_qwen3: BaseModel, switches: tuple[bool, bool, bool], parts: set[str]
) -> None:
    names = AdapterState.create(tiny_qwen3, LoraConfig(2, 0, *switches)).to_arrays()
    known = ("self_attn", "mlp", "lm_head")
    assert {part for name in names for part in known if f".{part}." in name} == parts
    per_layer = 2 * (4 * ("self_attn" in parts) + 3 * ("mlp" in parts))
    assert len(names) == 3 * per_layer + 2 * ("lm_head" in parts)


def test_nothing_to_train_and_no_rank_are_refused(tiny_qwen3: BaseModel) -> None:
    with pytest.raises(InvalidInputError, match="nothing to train"):
        AdapterState.create(tiny_qwen3, LoraConfig(4, 0, False, False, False))
    with pytest.raises(InvalidInputError, match="rank 0 is not allowed"):
        AdapterState.create(tiny_qwen3, LoraConfig(0, 0))


def test_adapter_and_optimizer_survive_the_way_through_arrays(
    tiny_qwen3: BaseModel, batch: Callable[..., ForwardBackward]
) -> None:
    lora = LoraConfig(4, 0)
    state = TrainingState(AdapterState.create(tiny_qwen3, lora))
    trainer = Trainer(tiny_qwen3, state)
    for seed in range(2):
        trainer.forward_backward(batch(seed=seed))
        trainer.optim_step(OptimStep(AdamParams(learning_rate=0.01)))
    adapter = AdapterState.from_arrays(tiny_qwen3, lora, state.adapter.to_arrays())
    optimizer = OptimizerState.from_arrays(adapter.layout, state.optimizer.to_arrays())
    restored = TrainingState(adapter, optimizer)

    for trained in (state, restored):
        Trainer(tiny_qwen3, trained).forward_backward(batch(seed=7))
        Trainer(tiny_qwen3, trained).optim_step(OptimStep(AdamParams(learning_rate=0.01)))

    assert torch.equal(state.adapter.weights_P, restored.adapter.weights_P)
    assert torch.equal(state.optimizer.exp_avg_sq_P, restored.optimizer.exp_avg_sq_P)
    assert restored.optimizer.num_steps == 3


def test_arrays_are_copies(tiny_qwen3: BaseModel) -> None:
    adapter = AdapterState.create(tiny_qwen3, LoraConfig(2, 0))
    arrays = adapter.to_arrays()
    for array in arrays.values():
        array[...] = 7
    assert float(adapter.weights_P.abs().max()) < 7
    frozen = adapter.frozen(torch.float32)
    adapter.weights_P.fill_(3)
    assert all(float(p[0].abs().max()) < 3 for p in frozen.pairs if p is not None)


def test_a_frozen_adapter_from_arrays_equals_one_from_the_run(
    tiny_qwen3: BaseModel, trained_adapter: Callable[..., AdapterState]
) -> None:
    lora = LoraConfig(3, 0, train_attn=False)
    adapter = trained_adapter(tiny_qwen3, lora)
    loaded = load_frozen(tiny_qwen3, lora, adapter.to_arrays())
    frozen = adapter.frozen(tiny_qwen3.dtype)
    assert loaded.scale == frozen.scale == 32 / 3
    for a, b in zip(loaded.pairs, frozen.pairs, strict=True):
        assert (a is None) == (b is None)
        if a is not None and b is not None:
            assert torch.equal(a[0], b[0]) and torch.equal(a[1], b[1])


def test_a_checkpoint_that_does_not_fit_is_refused_by_tensor(tiny_qwen3: BaseModel) -> None:
    lora = LoraConfig(4, 0)
    arrays = AdapterState.create(tiny_qwen3, lora).to_arrays()
    name = "base_model.model.lm_head.lora_B.weight"
    lacking = {key: value for key, value in arrays.items() if key != name}
    with pytest.raises(InvalidInputError, match=f"lacks the tensor '{name}'"):
        AdapterState.from_arrays(tiny_qwen3, lora, lacking)
    with pytest.raises(InvalidInputError, match=r"shape \[97, 4\]; this run needs \[97, 8\]"):
        load_frozen(tiny_qwen3, LoraConfig(8, 0), {**arrays, **_of_rank(arrays, 8, name)})
    with pytest.raises(InvalidInputError, match="not finite"):
        load_frozen(tiny_qwen3, lora, {**arrays, name: np.full((97, 4), np.nan, np.float32)})


def _of_rank(arrays: dict, rank: int, but: str) -> dict:
    """Zeros of the shapes of another rank for every name but one."""
    return {
        name: np.zeros((rank, a.shape[1]) if "lora_A" in name else (a.shape[0], rank), "f4")
        for name, a in arrays.items()
        if name != but
    }


def test_an_optimizer_checkpoint_that_does_not_fit_is_refused(tiny_qwen3: BaseModel) -> None:
    layout = AdapterState.create(tiny_qwen3, LoraConfig(4, 0)).layout
    arrays = OptimizerState.create(layout).to_arrays()
    name = "base_model.model.lm_head.lora_B.weight.exp_avg_sq"
    for bad, message in (
        ({"step": np.array(-1)}, "'step'"),
        ({"step": np.array([1, 2])}, "'step'"),
        ({name: np.full((97, 4), -1, np.float32)}, "negative exp_avg_sq"),
    ):
        with pytest.raises(InvalidInputError, match=message):
            OptimizerState.from_arrays(layout, {**arrays, **bad})
    del arrays[name]
    with pytest.raises(InvalidInputError, match="lacks the tensor"):
        OptimizerState.from_arrays(layout, arrays)
