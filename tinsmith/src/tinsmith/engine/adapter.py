"""A run's adapter: one flat fp32 vector with A and B of every layer as views into it.

Flat, because the optimizer, gradient accumulation and copies then are single operations. Outside
of the engine an adapter is a dictionary from PEFT's parameter names to arrays.

Shape suffixes: P all parameters, I inputs, O outputs, R rank.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from tinsmith.domain.errors import InvalidInputError
from tinsmith.domain.ops import LORA_ALPHA, LoraConfig
from tinsmith.engine.base_model import BaseModel
from tinsmith.engine.target_modules import (
    TargetModule,
    peft_target_modules,
    peft_target_parameters,
)
from tinsmith.nn.context import Pair, Segment
from tinsmith.nn.lora import init_pair

Arrays = dict[str, NDArray[np.generic]]


@dataclass(frozen=True, slots=True)
class Parameter:
    """One A or B: its name in PEFT's layout and its place in the flat vector."""

    name: str
    start: int
    shape: tuple[int, int]

    @property
    def stop(self) -> int:
        return self.start + self.shape[0] * self.shape[1]


class AdapterLayout:
    """Where each A and B of a LoRA configuration lies in flat vectors over one base model."""

    def __init__(self, base: BaseModel, lora: LoraConfig) -> None:
        """
        Raises:
            InvalidInputError: a rank below 1, or switches that leave nothing to train.
        """
        if lora.rank < 1:
            raise InvalidInputError(f"rank {lora.rank} is not allowed; the least is 1")
        self.lora = lora
        self.device = base.device
        self.scale = LORA_ALPHA / lora.rank
        self.num_layers = len(base.targets)
        self._all_targets = base.targets
        self._parameters: dict[int, tuple[Parameter, Parameter]] = {}
        start = 0
        for index, target in enumerate(base.targets):
            if target.is_trained(lora):
                name, rows = f"base_model.model.{target.peft_path}", lora.rank * target.num_experts
                a = Parameter(f"{name}.lora_A.weight", start, (rows, target.num_inputs))
                b = Parameter(f"{name}.lora_B.weight", a.stop, (target.num_outputs, rows))
                self._parameters[index] = (a, b)
                start = b.stop
        if not self._parameters:
            raise InvalidInputError(
                "there is nothing to train: one of train_attn, train_mlp and train_unembed must be "
                "true and find layers in the model"
            )
        self.size = start
        """Number of trainable parameters."""

    @property
    def parameters(self) -> Iterator[Parameter]:
        for pair in self._parameters.values():
            yield from pair

    @property
    def targets(self) -> list[TargetModule]:
        return [self._all_targets[index] for index in self._parameters]

    @property
    def peft_target_modules(self) -> list[str]:
        """`target_modules` for adapter_config.json."""
        return peft_target_modules(self.targets, self._all_targets)

    @property
    def peft_target_parameters(self) -> list[str]:
        """`target_parameters` for adapter_config.json; empty without experts."""
        return peft_target_parameters(self.targets)

    def pairs(self, flat_P: Tensor) -> list[Pair | None]:
        """A and B as views of a flat vector, by AdapterLinear.index. Detached: each is a leaf."""
        pairs: list[Pair | None] = [None] * self.num_layers
        for index, (a, b) in self._parameters.items():
            pairs[index] = (
                flat_P.detach()[a.start : a.stop].view(a.shape),
                flat_P.detach()[b.start : b.stop].view(b.shape),
            )
        return pairs

    def initial(self) -> Tensor:
        """The weights of a new adapter, on the CPU. Drawn layer by layer in the model's order
        from one generator, so the seed alone decides."""
        generator = torch.Generator().manual_seed(self.lora.seed % 2**63)
        flat_P = torch.empty(self.size)
        for a, b in self._parameters.values():
            a_RI, b_OR = init_pair(a.shape[0], a.shape[1], b.shape[0], generator)
            flat_P[a.start : a.stop] = a_RI.view(-1)
            flat_P[b.start : b.stop] = b_OR.view(-1)
        return flat_P

    def to_arrays(self, flat_P: Tensor, suffix: str = "") -> Arrays:
        """Copies of a flat vector's parts, by parameter name plus suffix."""
        flat = flat_P.detach().to("cpu", torch.float32, copy=True).numpy()
        return {
            f"{p.name}{suffix}": flat[p.start : p.stop].reshape(p.shape).copy()
            for p in self.parameters
        }

    def from_arrays(self, arrays: Mapping[str, NDArray[np.generic]], suffix: str = "") -> Tensor:
        """The flat vector, on the model's device. Names must have the suffix and be complete.

        Raises:
            InvalidInputError: a parameter is missing, misshapen or not finite.
        """
        flat = np.empty(self.size, dtype=np.float32)
        for parameter in self.parameters:
            name = f"{parameter.name}{suffix}"
            if name not in arrays:
                raise InvalidInputError(f"the checkpoint lacks the tensor {name!r}")
            array = arrays[name]
            if array.shape != parameter.shape:
                raise InvalidInputError(
                    f"tensor {name!r} has shape {list(array.shape)}; this run needs "
                    f"{list(parameter.shape)}"
                )
            flat[parameter.start : parameter.stop] = array.reshape(-1)
        if not np.isfinite(flat).all():
            raise InvalidInputError("the checkpoint holds values that are not finite")
        return torch.from_numpy(flat).to(self.device)


@dataclass(frozen=True, slots=True, eq=False)
class FrozenAdapter:
    """An adapter to sample from. It shares no memory with the run that it was taken from."""

    pairs: Sequence[Pair | None]
    scale: float
    number: int = field(default_factory=itertools.count().__next__)
    """No two have the same, in one process."""

    def segment(self, start: int, stop: int) -> Segment:
        return Segment(self.pairs, self.scale, start, stop)


class AdapterState:
    """The weights that a run trains."""

    def __init__(self, layout: AdapterLayout, weights_P: Tensor) -> None:
        """Takes `weights_P` over; fp32, on the model's device."""
        self.layout = layout
        self.weights_P = weights_P
        self.pairs = layout.pairs(weights_P)
        """Views of weights_P; leaves that want gradients."""
        for pair in self.pairs:
            if pair is not None:
                pair[0].requires_grad_()
                pair[1].requires_grad_()

    @classmethod
    def create(cls, base: BaseModel, lora: LoraConfig) -> AdapterState:
        layout = AdapterLayout(base, lora)
        return cls(layout, layout.initial().to(base.device))

    @classmethod
    def from_arrays(
        cls, base: BaseModel, lora: LoraConfig, arrays: Mapping[str, NDArray[np.generic]]
    ) -> AdapterState:
        """From PEFT's parameter names; see AdapterLayout.from_arrays for what is refused."""
        layout = AdapterLayout(base, lora)
        return cls(layout, layout.from_arrays(arrays))

    def to_arrays(self) -> Arrays:
        """fp32 copies by PEFT's parameter names, as adapter_model.safetensors holds them."""
        return self.layout.to_arrays(self.weights_P)

    def frozen(self, dtype: torch.dtype) -> FrozenAdapter:
        """A copy for sampling in the base model's dtype."""
        copy_P = self.weights_P.detach().to(dtype, copy=True)
        return FrozenAdapter(self.layout.pairs(copy_P), self.layout.scale)

    def segment(self, num_tokens: int) -> Segment:
        """This adapter on a whole pack."""
        return Segment(self.pairs, self.layout.scale, 0, num_tokens)


def load_frozen(
    base: BaseModel, lora: LoraConfig, arrays: Mapping[str, NDArray[np.generic]]
) -> FrozenAdapter:
    """A saved adapter, ready to sample from; refuses what AdapterLayout.from_arrays refuses."""
    layout = AdapterLayout(base, lora)
    flat_P = layout.from_arrays(arrays).to(base.dtype)
    return FrozenAdapter(layout.pairs(flat_P), layout.scale)


class OptimizerState:
    """AdamW's moments, flat in the adapter's layout."""

    def __init__(
        self, layout: AdapterLayout, exp_avg_P: Tensor, exp_avg_sq_P: Tensor, num_steps: int
    ) -> None:
        self.layout = layout
        self.exp_avg_P = exp_avg_P
        self.exp_avg_sq_P = exp_avg_sq_P
        self.num_steps = num_steps
        """Steps taken so far; the bias correction depends on it."""

    @classmethod
    def create(cls, layout: AdapterLayout) -> OptimizerState:
        zeros_P = torch.zeros(layout.size, device=layout.device)
        return cls(layout, zeros_P, zeros_P.clone(), 0)

    def to_arrays(self) -> Arrays:
        """`<parameter>.exp_avg` and `<parameter>.exp_avg_sq`, fp32, and `step`, int64 []: the
        words of torch.optim.AdamW, so that others can read it."""
        return {
            **self.layout.to_arrays(self.exp_avg_P, ".exp_avg"),
            **self.layout.to_arrays(self.exp_avg_sq_P, ".exp_avg_sq"),
            "step": np.array(self.num_steps, dtype=np.int64),
        }

    @classmethod
    def from_arrays(
        cls, layout: AdapterLayout, arrays: Mapping[str, NDArray[np.generic]]
    ) -> OptimizerState:
        """Raises InvalidInputError for what is missing, misshapen or out of range."""
        if "step" not in arrays or arrays["step"].size != 1 or int(arrays["step"].item()) < 0:
            raise InvalidInputError("the optimizer's checkpoint lacks a valid 'step'")
        exp_avg_sq_P = layout.from_arrays(arrays, ".exp_avg_sq")
        if bool((exp_avg_sq_P < 0).any()):
            raise InvalidInputError("the optimizer's checkpoint holds a negative exp_avg_sq")
        return cls(
            layout,
            layout.from_arrays(arrays, ".exp_avg"),
            exp_avg_sq_P,
            int(arrays["step"].item()),
        )
