"""adapter_config.json: what PEFT needs to load an adapter; its LoraConfig names the fields."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from tinsmith.domain.ops import LORA_ALPHA


def adapter_config(
    base_model: str, rank: int, target_modules: Sequence[str], target_parameters: Sequence[str]
) -> dict[str, Any]:
    """For an adapter on these layers and stacked experts, by PEFT's names for both."""
    return {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": base_model,
        "r": rank,
        "lora_alpha": LORA_ALPHA,
        "lora_dropout": 0.0,
        "bias": "none",
        "fan_in_fan_out": False,
        "inference_mode": True,
        "target_modules": list(target_modules),
        # Left out where there are none: PEFT knows the field since 0.17 only.
        **({"target_parameters": list(target_parameters)} if target_parameters else {}),
    }
