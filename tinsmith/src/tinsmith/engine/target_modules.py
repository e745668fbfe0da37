"""Which layers of a base model an adapter may change."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

from torch import nn
from transformers import PreTrainedModel

from tinsmith.domain.errors import InvalidInputError
from tinsmith.domain.ops import LoraConfig
from tinsmith.nn.experts import DOWN, GATE_UP, has_known_layout
from tinsmith.nn.quantized import QuantizedLinear


class Part(StrEnum):
    """The switches of LoraConfig."""

    ATTN = "attn"
    MLP = "mlp"
    UNEMBED = "unembed"


@dataclass(frozen=True, slots=True)
class TargetModule:
    path: str
    """The layer's dotted name in the model."""
    part: Part
    num_inputs: int
    num_outputs: int
    num_experts: int = 1
    parameter: str = ""
    """Which of a module's stacked tensors of experts; empty for a linear layer."""

    @property
    def peft_path(self) -> str:
        """The module that holds A and B under PEFT. It wraps experts once for each tensor, the
        first tensor's wrapper within the second's."""
        return f"{self.path}.base_layer" if self.parameter == GATE_UP else self.path

    def is_trained(self, lora: LoraConfig) -> bool:
        return {
            Part.ATTN: lora.train_attn,
            Part.MLP: lora.train_mlp,
            Part.UNEMBED: lora.train_unembed,
        }[self.part]


def find_targets(model: PreTrainedModel) -> tuple[TargetModule, ...]:
    """Every nn.Linear and every stack of experts inside the decoder's layers, and the output
    layer. Routers are no targets.

    One with an `attn` or `attention` in its dotted name counts as attention, the others of a
    layer as MLP.

    Raises:
        InvalidInputError: a layer keeps its weights in something else, so that an adapter could
            not be put on it, or has other feed-forward layers beside experts.
    """
    prefix, layers = decoder_layers(model)
    targets: list[TargetModule] = []
    routers = _routers(layers)
    for name, module in layers.named_modules():
        path = f"{prefix}.{name}"
        weights = [p for p in module.parameters(recurse=False) if p.ndim >= 2]
        if name in routers or ".experts." in path:
            continue
        if path.endswith(".experts"):
            if not has_known_layout(module):
                raise InvalidInputError(
                    f"{path} is a {type(module).__name__}; of models that route tokens to experts "
                    "those are supported that stack them as Qwen3-MoE does"
                )
            for parameter in (GATE_UP, DOWN):
                num_experts, *shape = module.get_parameter(parameter).shape
                targets.append(
                    TargetModule(path, Part.MLP, shape[1], shape[0], num_experts, parameter)
                )
        elif isinstance(module, nn.Linear | QuantizedLinear):
            part = Part.ATTN if _is_attention(name) else Part.MLP
            targets.append(TargetModule(path, part, module.in_features, module.out_features))
        elif weights:
            raise InvalidInputError(
                f"{path} is a {type(module).__name__}; adapters are supported on torch.nn.Linear "
                "layers only"
            )
    mlps = [target for target in targets if target.part is Part.MLP]
    if routers and (dense := [target.path for target in mlps if not target.parameter]):
        # PEFT reads the names of such layers as an older way to name experts.
        raise InvalidInputError(
            f"{dense[0]} is a feed-forward layer beside experts; mixture-of-experts models are "
            "supported where all feed-forward layers are experts"
        )
    head = model.get_output_embeddings()
    if not isinstance(head, nn.Linear):
        raise InvalidInputError(
            f"the output layer is {type(head).__name__}; only torch.nn.Linear is supported"
        )
    head_path = next(name for name, module in model.named_modules() if module is head)
    targets.append(TargetModule(head_path, Part.UNEMBED, head.in_features, head.out_features))
    return tuple(targets)


def peft_target_modules(
    targets: Sequence[TargetModule], all_targets: Sequence[TargetModule]
) -> list[str]:
    """Names for adapter_config.json by which PEFT finds exactly these layers again: last parts
    where those are unambiguous, else full names. Experts are named by their tensors."""
    targets = [target for target in targets if not target.parameter]
    short = sorted({target.path.rpartition(".")[2] for target in targets})
    paths = {target.path for target in targets}
    for other in all_targets:
        if other.path not in paths and other.path.rpartition(".")[2] in short:
            return sorted(paths)
    return short


def peft_target_parameters(targets: Sequence[TargetModule]) -> list[str]:
    """Names for adapter_config.json by which PEFT finds the stacked experts again."""
    return sorted({f"{t.path.rpartition('.')[2]}.{t.parameter}" for t in targets if t.parameter})


def decoder_layers(model: PreTrainedModel) -> tuple[str, nn.ModuleList]:
    """The list of layers and its dotted name in the model."""
    decoder = model.get_decoder()
    num_layers = model.config.get_text_config(decoder=True).num_hidden_layers
    for module in decoder.modules():
        if isinstance(module, nn.ModuleList) and len(module) == num_layers:
            path = next(name for name, found in model.named_modules() if found is module)
            return path, module
    raise InvalidInputError(
        f"{type(model).__name__} has no list of {num_layers} decoder layers; "
        "only decoder-only models are supported"
    )


def _routers(layers: nn.ModuleList) -> set[str]:
    """Names of the modules beside experts that decide who gets a token."""
    names = {name for name, _ in layers.named_modules()}
    beside = {name.rpartition(".")[0] for name in names if name.endswith(".experts")}
    return {f"{block}.gate" for block in beside} & names


def _is_attention(name: str) -> bool:
    return any("attn" in part or "attention" in part for part in name.lower().split("."))
