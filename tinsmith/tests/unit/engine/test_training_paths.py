"""Every way of executing a forward_backward against transformers + PEFT, on datums that share
their heads."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from beside_peft import in_peft
from tinsmith.domain.datum import Datum
from tinsmith.domain.errors import InvalidInputError
from tinsmith.domain.ops import ForwardBackward, LoraConfig
from tinsmith.engine import activation_memory
from tinsmith.engine.adapter import AdapterState
from tinsmith.engine.base_model import BaseModel
from tinsmith.engine.trainer import Trainer, TrainingSettings
from tinsmith.engine.training_state import TrainingState
from transformers import AutoModelForCausalLM

VOCAB_SIZE = 97
ARCHITECTURES = ["qwen3", "qwen2_5", "llama", "smollm", "gemma2", "gemma3", "qwen3_moe", "mixtral"]
PATHS = {
    "as_shipped": TrainingSettings(),
    "sharing_off": TrainingSettings(share_prefixes=False),
    "packing_off": TrainingSettings(token_budget=1),
    "whole_last_layer": TrainingSettings(select_last_layer=False),
    "weighted_only": TrainingSettings(zero_weight_logprobs=False),
    "recomputed": TrainingSettings(checkpointing=True),
    "recomputed_weighted_only": TrainingSettings(checkpointing=True, zero_weight_logprobs=False),
}


def mails(seed: int = 0) -> ForwardBackward:
    """An instruction of 20 tokens, two mails with a longer common head, one that ends within it,
    and two that are equal; weights on the last tokens, some inside the instruction."""
    rng = np.random.default_rng(seed)
    instruction = rng.integers(0, VOCAB_SIZE, 20)
    longer = np.concatenate([instruction, rng.integers(0, VOCAB_SIZE, 18)])
    tails = [rng.integers(0, VOCAB_SIZE, n) for n in (9, 5, 12)]
    sequences = [
        np.concatenate([longer, tails[0]]),
        np.concatenate([instruction, tails[2]]),
        np.concatenate([longer, tails[1]]),
        longer[:26],
        np.concatenate([instruction, tails[2]]),
    ]
    data = []
    for sequence in sequences:
        weights = rng.normal(size=len(sequence)).astype(np.float32)
        weights[:-8] = 0
        weights[17] = 0.5
        targets = np.concatenate([sequence[1:], rng.integers(0, VOCAB_SIZE, 1)])
        data.append(
            Datum(sequence.astype(np.int32), {"target_tokens": targets, "weights": weights})
        )
    return ForwardBackward(tuple(data), "cross_entropy")


@dataclasses.dataclass(frozen=True)
class Reference:
    loss: float
    logprobs: list[np.ndarray]
    gradients: dict[str, np.ndarray]


def reference(
    directory: Path, adapter: AdapterState, op: ForwardBackward, dtype: torch.dtype
) -> Reference:
    """Loss, logprobs and gradients of PEFT in float64; of PEFT's own bf16 if `dtype` is that."""
    wrapped = in_peft(directory, adapter, dtype)
    loss, logprobs = torch.zeros((), dtype=torch.float64), []
    for datum in op.data:
        tokens = torch.from_numpy(datum.tokens.astype(np.int64))[None]
        targets = torch.from_numpy(datum.loss_fn_inputs["target_tokens"])
        logits = wrapped(input_ids=tokens).logits[0]
        logits = logits if dtype == torch.float64 else logits.float()
        lp = logits.log_softmax(-1).gather(1, targets[:, None])[:, 0]
        loss = loss - (torch.from_numpy(datum.loss_fn_inputs["weights"]) * lp).double().sum()
        logprobs.append(lp.detach().double().numpy())
    loss.backward()
    gradients = {
        name.replace(".default", ""): parameter.grad.double().numpy()
        for name, parameter in wrapped.named_parameters()
        if parameter.grad is not None
    }
    return Reference(loss.item(), logprobs, gradients)


def far(ours: np.ndarray, wanted: np.ndarray) -> float:
    return float(np.linalg.norm(ours - wanted) / np.linalg.norm(wanted))


def assert_equal_to_peft(
    base: BaseModel, directory: Path, adapter: AdapterState, settings: TrainingSettings
) -> None:
    op = mails()
    wanted = reference(directory, adapter, op, torch.float64)
    state = TrainingState(adapter)
    done = Trainer(base, state, settings).forward_backward(op)

    # The figures that issues A and B ask for in fp32.
    assert done.metrics["loss:sum"] == pytest.approx(wanted.loss, rel=1e-5)
    for datum, ours, theirs in zip(op.data, done.logprobs, wanted.logprobs, strict=True):
        asked = datum.loss_fn_inputs["weights"] != 0
        np.testing.assert_allclose(ours[asked], theirs[asked], atol=1e-4)
        if settings.zero_weight_logprobs:
            np.testing.assert_allclose(ours, theirs, atol=1e-4)
        else:
            assert not ours[~asked].any()
    assert state.gradient_P is not None
    gradients = adapter.layout.to_arrays(state.gradient_P)
    assert set(gradients) == set(wanted.gradients)
    for name, theirs in wanted.gradients.items():
        assert far(gradients[name], theirs) < 1e-4, name


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("name", ARCHITECTURES)
def test_every_path_gives_the_loss_and_the_gradients_of_peft(
    name: str,
    path: str,
    base_of: Callable[[str], BaseModel],
    model_dir: Callable[[str], Path],
    trained_adapter: Callable[..., AdapterState],
) -> None:
    base = base_of(name)
    adapter = trained_adapter(base, LoraConfig(rank=4, seed=3, train_unembed=False))
    assert_equal_to_peft(base, model_dir(name), adapter, PATHS[path])


@pytest.mark.parametrize(
    "trained", [{"train_mlp": False}, {"train_attn": False}, {"train_attn": False, "rank": 40}]
)
@pytest.mark.parametrize("train_unembed", [True, False])
def test_any_choice_of_layers_and_a_rank_above_the_width_give_the_gradients_of_peft(
    trained: dict[str, int],
    train_unembed: bool,
    tiny_qwen3: BaseModel,
    model_dir: Callable[[str], Path],
    trained_adapter: Callable[..., AdapterState],
) -> None:
    lora = LoraConfig(**{"rank": 4, "seed": 3, "train_unembed": train_unembed, **trained})
    adapter = trained_adapter(tiny_qwen3, lora)
    assert_equal_to_peft(tiny_qwen3, model_dir("qwen3"), adapter, TrainingSettings())


@pytest.mark.parametrize("name", ["qwen3", "qwen2_5", "llama"])
def test_transformers_own_layers_give_the_same(
    name: str, model_dir: Callable[[str], Path], trained_adapter: Callable[..., AdapterState]
) -> None:
    base = BaseModel.load(model_dir(name), "cpu", torch.float32, own_layers=False)
    adapter = trained_adapter(base, LoraConfig(rank=4, seed=3, train_unembed=False))
    assert_equal_to_peft(base, model_dir(name), adapter, TrainingSettings(checkpointing=True))


@pytest.mark.parametrize("name", ["qwen3", "qwen2_5", "llama"])
def test_in_bf16_we_are_no_farther_from_fp64_than_peft_in_bf16(
    name: str, model_dir: Callable[[str], Path], trained_adapter: Callable[..., AdapterState]
) -> None:
    base = BaseModel.load(model_dir(name), "cpu", torch.bfloat16, arithmetic=torch.bfloat16)
    errors, theirs = [], []
    for seed in range(4):
        adapter = trained_adapter(base, LoraConfig(rank=4, seed=seed, train_unembed=False))
        op = mails(seed)
        # fp64 on the very weights that bf16 can hold.
        rounded = rounded_to_bf16(model_dir(name))
        exact = reference(rounded, adapter, op, torch.float64)
        peer = reference(model_dir(name), adapter, op, torch.bfloat16)
        state = TrainingState(adapter)
        Trainer(base, state).forward_backward(op)
        assert state.gradient_P is not None
        gradients = adapter.layout.to_arrays(state.gradient_P)
        for parameter, wanted in exact.gradients.items():
            errors.append(far(gradients[parameter], wanted))
            theirs.append(far(peer.gradients[parameter], wanted))
    assert np.mean(errors) <= np.mean(theirs)


@pytest.mark.parametrize("name", ["qwen3", "qwen2_5", "llama"])
@pytest.mark.parametrize("own_layers", [True, False])
def test_weights_held_in_bf16_and_computed_with_in_fp32_lose_nothing_but_their_own_rounding(
    name: str,
    own_layers: bool,
    model_dir: Callable[[str], Path],
    trained_adapter: Callable[..., AdapterState],
) -> None:
    directory = model_dir(name)
    base = BaseModel.load(
        directory, "cpu", torch.bfloat16, arithmetic=torch.float32, own_layers=own_layers
    )
    adapter = trained_adapter(base, LoraConfig(rank=4, seed=1, train_unembed=False))
    assert_equal_to_peft(base, rounded_to_bf16(directory), adapter, TrainingSettings())


def rounded_to_bf16(directory: Path) -> Path:
    rounded = directory.with_name(f"{directory.name}-bf16")
    if not rounded.exists():
        model = AutoModelForCausalLM.from_pretrained(directory, dtype=torch.bfloat16)
        model.save_pretrained(rounded)
    return rounded


@pytest.mark.parametrize("name", ["qwen3", "gemma2"])
def test_activations_computed_again_give_the_same_bits(
    name: str, base_of: Callable[[str], BaseModel], trained_adapter: Callable[..., AdapterState]
) -> None:
    gradients = []
    for checkpointing in (False, True):
        base = base_of(name)
        state = TrainingState(trained_adapter(base, LoraConfig(rank=4, seed=3)))
        Trainer(base, state, TrainingSettings(checkpointing=checkpointing)).forward_backward(
            mails()
        )
        gradients.append(state.gradient_P)
    assert torch.equal(gradients[0], gradients[1])


def test_what_a_pass_keeps_is_less_when_it_is_computed_again(tiny_qwen3: BaseModel) -> None:
    memory = tiny_qwen3.activation_memory
    demand = activation_memory.Demand(num_tokens=1000, longest=1000, num_scored=100)
    kept = memory.bytes_for(demand, trains=True, checkpointing=False)
    recomputed = memory.bytes_for(demand, trains=True, checkpointing=True)
    forward_only = memory.bytes_for(demand, trains=False, checkpointing=False)
    assert forward_only < recomputed < kept


def test_short_memory_recomputes_and_too_little_refuses_one_op_and_no_other(
    tiny_qwen3: BaseModel,
) -> None:
    memory, op = tiny_qwen3.activation_memory, mails()
    demand = activation_memory.Demand(num_tokens=1000, longest=1000, num_scored=100)
    kept, least = (
        memory.bytes_for(demand, trains=True, checkpointing=recomputes)
        for recomputes in (False, True)
    )
    assert not memory.must_recompute(demand, kept, trains=True)
    assert memory.must_recompute(demand, least, trains=True)
    with pytest.raises(MemoryError, match="1000 tokens"):
        memory.must_recompute(demand, least - 1, trains=True)

    adapter = AdapterState.create(tiny_qwen3, LoraConfig(rank=4, seed=0))
    state = TrainingState(adapter)
    cramped = Trainer(tiny_qwen3, state, TrainingSettings(activation_bytes=1000))
    with pytest.raises(InvalidInputError, match=r"data\[0:5\].*would fit"):
        cramped.forward_backward(op)
    assert state.gradient_P is None
    state.clear_window()
    assert Trainer(tiny_qwen3, state).forward_backward(op).metrics["loss:sum"]


def test_the_token_budget_shrinks_with_the_room_there_is(tiny_qwen3: BaseModel) -> None:
    memory, device = tiny_qwen3.activation_memory, torch.device("cpu")
    some = memory.bytes_for(
        activation_memory.Demand(2048, 2048, 2048), trains=True, checkpointing=False
    )
    budgets = [memory.token_budget(device, room) for room in (2**50, 2 * some, 0)]
    assert budgets == [activation_memory.CPU_BUDGET, 2048, activation_memory.LEAST_BUDGET]
