"""Keeping the base model's linear layers in few bits."""

from __future__ import annotations

import torch
from torch import nn
from transformers import PreTrainedModel

from tinsmith.domain.errors import InvalidInputError
from tinsmith.engine.heap import trim_heap
from tinsmith.engine.target_modules import Part, find_targets
from tinsmith.nn.quantized import QuantizedLinear

BITS = {"8bit": 8, "4bit": 4}
DEVICES = ("cpu", "cuda")


def check_quantization(quantize: str, device: torch.device) -> None:
    """Whether weights can be quantised here.

    Raises:
        InvalidInputError: an unknown kind, a device without kernels, or the extra is missing.
    """
    if quantize not in BITS:
        raise InvalidInputError(
            f"quantize {quantize!r} is unknown; use one of {', '.join(BITS)}, or nothing"
        )
    if device.type not in DEVICES:
        raise InvalidInputError(
            f"a base model on {device.type!r} cannot be quantised; devices that can: "
            f"{', '.join(DEVICES)}"
        )
    try:
        import bitsandbytes  # noqa: F401
    except ImportError as error:
        raise InvalidInputError(
            f"quantize {quantize!r} needs the library bitsandbytes ({error}); install the extra: "
            "pip install 'tinsmith[quantized]'"
        ) from error


def quantize_linears(
    model: PreTrainedModel, quantize: str, device: torch.device, dtype: torch.dtype
) -> None:
    """Replace the linear layers inside the decoder's layers, one after another, and bring the
    rest of the model to `device` and `dtype`.

    The model is as it was loaded, in the dtype of its files. Embeddings and the output layer
    decide about single tokens, are the same tensor in many models, and stay as they are.

    Raises:
        InvalidInputError: a kind of model that we do not support, or see check_quantization.
    """
    check_quantization(quantize, device)
    stored = model.dtype
    for target in find_targets(model):
        if target.part is Part.UNEMBED:
            continue
        if target.parameter:
            raise InvalidInputError(
                f"{target.path} routes tokens to experts, and experts cannot be quantised; serve "
                "the model without quantize"
            )
        linear = model.get_submodule(target.path)
        assert isinstance(linear, nn.Linear)
        bias_O = None if linear.bias is None else linear.bias.to(device)
        quantized = QuantizedLinear(linear.weight.to(device), bias_O, BITS[quantize], dtype)
        model.set_submodule(target.path, quantized)
        trim_heap()
    for parameter in model.parameters():
        # What was loaded in another dtype than the files' has its reason.
        wanted = dtype if parameter.dtype == stored else parameter.dtype
        parameter.data = parameter.data.to(device, wanted)


def quantization_of(model: nn.Module) -> str:
    """8bit, 4bit or nothing."""
    for module in model.modules():
        if isinstance(module, QuantizedLinear):
            return f"{module.bits}bit"
    return ""
