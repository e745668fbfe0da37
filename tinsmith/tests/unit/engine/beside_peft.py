"""The independent reference: an adapter of ours in PEFT."""

from __future__ import annotations

import warnings
from pathlib import Path

import peft
import torch
from tinsmith.engine.adapter import AdapterState
from transformers import AutoModelForCausalLM


def in_peft(
    directory: Path, adapter: AdapterState, dtype: torch.dtype = torch.float32
) -> peft.PeftModel:
    """The same weights and adapter under PEFT, on transformers' own eager attention."""
    model = AutoModelForCausalLM.from_pretrained(
        directory, dtype=dtype, attn_implementation="eager", experts_implementation="eager"
    )
    config = peft.LoraConfig(
        r=adapter.layout.lora.rank,
        lora_alpha=32,
        target_modules=adapter.layout.peft_target_modules,
        target_parameters=adapter.layout.peft_target_parameters,
        task_type="CAUSAL_LM",
    )
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*tie_word_embeddings.*")
        # PEFT 0.21 asks transformers for a property by its old name.
        warnings.filterwarnings("ignore", message=".*is_gradient_checkpointing.*")
        wrapped = peft.get_peft_model(model, config)
    if dtype == torch.float64:
        wrapped = wrapped.double()
    tensors = {name: torch.from_numpy(array) for name, array in adapter.to_arrays().items()}
    loaded = peft.set_peft_model_state_dict(wrapped, tensors)
    assert not loaded.unexpected_keys
    return wrapped
