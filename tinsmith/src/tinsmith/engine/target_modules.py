"""Which layers of a base model an adapter may change."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

from torch import nn
from transformers import PreTrainedModel

from tinsmith.domain.errors import InvalidInputError
from tinsmith.domain.ops import LoraConfig
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

    def is_trained(self, lora: LoraConfig) -> bool:
        return {
            Part.ATTN: lora.train_attn,
            Part.MLP: lora.train_mlp,
            Part.UNEMBED: lora.train_unembed,
        }[self.part]


def find_targets(model: PreTrainedModel) -> tuple[TargetModule, ...]:
    """Every nn.Linear inside the decoder's layers, and the output layer.

    One with an `attn` or `attention` in its dotted name counts as attention, the others of a
    layer as MLP.

    Raises:
        InvalidInputError: a layer keeps its weights in something else than nn.Linear, or routes
            tokens to experts, so that an adapter could not be put on it.
    """
    prefix, layers = decoder_layers(model)
    targets = []
    for name, module in layers.named_modules():
        path = f"{prefix}.{name}"
        weights = [p for p in module.parameters(recurse=False) if p.ndim >= 2]
        if "experts" in path.split("."):
            raise InvalidInputError(
                f"{path} routes tokens to experts; mixture-of-experts models are not supported"
            )
        if isinstance(module, nn.Linear | QuantizedLinear):
            part = Part.ATTN if _is_attention(name) else Part.MLP
            targets.append(TargetModule(path, part, module.in_features, module.out_features))
        elif weights:
            raise InvalidInputError(
                f"{path} is a {type(module).__name__}; adapters are supported on torch.nn.Linear "
                "layers only"
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
    where those are unambiguous, else full names."""
    short = sorted({target.path.rpartition(".")[2] for target in targets})
    paths = {target.path for target in targets}
    for other in all_targets:
        if other.path not in paths and other.path.rpartition(".")[2] in short:
            return sorted(paths)
    return short


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


def _is_attention(name: str) -> bool:
    return any("attn" in part or "attention" in part for part in name.lower().split("."))
