"""What an engine could do at most: the operations that a token takes, and the device's rate."""

from __future__ import annotations

from dataclasses import dataclass

from tinsmith.engine.base_model import BaseModel
from tinsmith.engine.devices import product_rate
from tinsmith.engine.target_modules import Part


@dataclass(frozen=True, slots=True)
class Speed:
    token_operations: int
    """Additions and multiplications of one token's way forward through the linear layers, without
    the output layer. Training takes twice as many: the way back computes no gradients of frozen
    weights."""
    device_operations_per_s: float
    """Measured on a large matrix product in the model's arithmetic."""

    @classmethod
    def of(cls, base: BaseModel) -> Speed:
        config = base.model.config.get_text_config(decoder=True)
        num_weights = sum(
            target.num_inputs
            * target.num_outputs
            * (config.num_experts_per_tok if target.num_experts > 1 else 1)
            for target in base.targets
            if target.part is not Part.UNEMBED
        )
        return cls(2 * num_weights, product_rate(base.device, base.dtype))
