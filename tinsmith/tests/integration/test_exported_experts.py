"""A mixture-of-experts run through the engine, and its export under plain PEFT."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import peft
import pytest
import torch
from running_engine import Engine, batch, step
from tinsmith.domain.addresses import CheckpointAddress, CheckpointKind
from tinsmith.domain.ops import ForwardBackward, LoraConfig, SaveExternal
from tinsmith.domain.outcomes import ForwardBackwardDone, Succeeded
from tinsmith.engine.base_model import BaseModel
from transformers import AutoModelForCausalLM, Qwen3MoeConfig, Qwen3MoeForCausalLM


@pytest.fixture(scope="module")
def model_directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("model")
    torch.manual_seed(0)
    config = Qwen3MoeConfig(
        vocab_size=64,
        hidden_size=32,
        moe_intermediate_size=24,
        num_experts=4,
        num_experts_per_tok=2,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=8,
        max_position_embeddings=64,
        initializer_range=0.3,
        tie_word_embeddings=False,
        eos_token_id=1,
        bos_token_id=None,
        pad_token_id=0,
    )
    Qwen3MoeForCausalLM(config).save_pretrained(directory)
    return directory


@pytest.fixture
def engine(tmp_path: Path, model_directory: Path) -> Iterator[Engine]:
    running = Engine(tmp_path, BaseModel.load(model_directory))
    yield running
    running.stop()


def forward(engine: Engine, seq_id: int, scope: str, op: ForwardBackward) -> np.ndarray:
    outcome = engine.submit(seq_id, op, scope)
    assert isinstance(outcome, Succeeded) and isinstance(outcome.result, ForwardBackwardDone)
    return outcome.result.logprobs[0]


def logprobs_under_peft(base: Path, adapter: Path, op: ForwardBackward) -> np.ndarray:
    model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    with warnings.catch_warnings():
        # PEFT 0.21 asks transformers for a property by its old name.
        warnings.filterwarnings("ignore", message=".*is_gradient_checkpointing.*")
        model = peft.PeftModel.from_pretrained(model, adapter)
    (datum,) = op.data
    with torch.no_grad():
        logits = model(input_ids=torch.from_numpy(datum.tokens.astype(np.int64))[None]).logits[0]
    targets = torch.from_numpy(datum.loss_fn_inputs["target_tokens"])
    return logits.log_softmax(-1).gather(1, targets[:, None])[:, 0].numpy()


@pytest.mark.parametrize("train_attn", [True, False], ids=["all_layers", "experts_only"])
def test_an_export_of_trained_experts_gives_the_same_logprobs_under_peft(
    engine: Engine, model_directory: Path, tmp_path: Path, train_attn: bool
) -> None:
    lora = LoraConfig(rank=4, seed=1, train_attn=train_attn, train_unembed=False)
    assert isinstance(engine.create(1, lora), Succeeded)
    run_id = f"{engine.session}:train:1"
    untrained = forward(engine, 1, run_id, batch())
    for number in range(3):
        engine.submit(2 + 2 * number, batch(), run_id)
        engine.submit(3 + 2 * number, step(0.02), run_id)
    trained = forward(engine, 8, run_id, batch())
    address = CheckpointAddress(run_id, CheckpointKind.EXTERNAL, "out")
    assert isinstance(engine.submit(9, SaveExternal(address), run_id), Succeeded)

    folder = tmp_path / "exported"
    folder.mkdir()
    for name in engine.store.files(address):
        with engine.store.open(address, name) as file:
            (folder / name).write_bytes(file.read())

    wanted = logprobs_under_peft(model_directory, folder, batch())

    assert trained.sum() > untrained.sum() + 1
    np.testing.assert_allclose(trained, wanted, atol=1e-4)
