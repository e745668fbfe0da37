"""Frozen linear layers whose weights are kept in 8 or 4 bits.

Blocks of 64 weights share one fp32 scale. 8 bits: 255 evenly spaced values. 4 bits: NF4, the 16
values that a normal distribution fills equally. The weights in the compute dtype exist only while
a product needs them. bitsandbytes is imported where it is used: it is an extra.

Shape suffixes: O outputs, I inputs, K blocks, B weights of a block.

Method: Dettmers et al., "QLoRA: Efficient Finetuning of Quantized LLMs", 2023, section 3.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

BLOCK_SIZE = 64
_BLOCKS_AT_ONCE = 2**16
"""Quantising takes several copies of what it is given; this bounds them."""


class QuantizedLinear(nn.Module):
    """What is left of a frozen nn.Linear: its weights in few bits, and its bias."""

    def __init__(
        self, weight_OI: Tensor, bias_O: Tensor | None, bits: int, dtype: torch.dtype
    ) -> None:
        """Quantise on the device of `weight_OI`, from its own dtype; it is not kept.

        Args:
            bits: 8 or 4.
            dtype: of the products.

        Raises:
            ImportError: bitsandbytes is not installed.
        """
        super().__init__()
        if bits not in (4, 8):
            raise ValueError(f"weights are quantised to 8 or 4 bits, not {bits}")
        self.out_features, self.in_features = weight_OI.shape
        self.bits, self.dtype = bits, dtype
        self.bias = None if bias_O is None else nn.Parameter(bias_O.to(dtype), requires_grad=False)
        codes, scale_K = _quantize(weight_OI.detach(), bits)
        self.codes: Tensor
        self.scale_K: Tensor
        self.register_buffer("codes", codes)
        self.register_buffer("scale_K", scale_K)

    @property
    def num_bytes(self) -> int:
        """Memory of the weights."""
        return sum(tensor.numel() * tensor.itemsize for tensor in (self.codes, self.scale_K))

    def frozen_weight(self) -> Tensor:
        """[O, I] in the compute dtype, made anew at every call."""
        weight_KB = _dequantize(self.codes, self.scale_K, self.bits, self.dtype)
        num_weights = self.out_features * self.in_features
        return weight_KB.view(-1)[:num_weights].view(self.out_features, self.in_features)

    def forward(self, x: Tensor) -> Tensor:
        """x is [..., I]. For the layer alone; AdapterLinear has the sparing gradients."""
        return functional.linear(x, self.frozen_weight(), self.bias)


def _quantize(weight_OI: Tensor, bits: int) -> tuple[Tensor, Tensor]:
    """Codes (uint8, two of 4 bits in each byte) and scales [K]."""
    import bitsandbytes.functional as bnb

    weight = weight_OI.reshape(-1)
    if weight.numel() % BLOCK_SIZE:
        weight = functional.pad(weight, (0, -weight.numel() % BLOCK_SIZE))
    codes, scales = [], []
    for part_KB in weight.view(-1, BLOCK_SIZE).split(_BLOCKS_AT_ONCE):
        if bits == 4:
            code, state = bnb.quantize_4bit(part_KB, blocksize=BLOCK_SIZE, quant_type="nf4")
        else:
            code, state = bnb.quantize_blockwise(
                part_KB, code=_levels(part_KB.device), blocksize=BLOCK_SIZE
            )
        codes.append(code)
        scales.append(state.absmax)
    return torch.cat(codes), torch.cat(scales)


def _dequantize(codes: Tensor, scale_K: Tensor, bits: int, dtype: torch.dtype) -> Tensor:
    import bitsandbytes.functional as bnb

    # As rows of one block each: for rows that end inside a block, the 4-bit kernel for CPUs takes
    # the wrong scales (bitsandbytes 0.50.2).
    shape = torch.Size((len(scale_K), BLOCK_SIZE))
    if bits == 4:
        state = bnb.QuantState(
            scale_K, shape=shape, blocksize=BLOCK_SIZE, quant_type="nf4", dtype=dtype
        )
        return bnb.dequantize_4bit(codes, state)
    levels = _levels(codes.device)
    state = bnb.QuantState(scale_K, shape=shape, code=levels, blocksize=BLOCK_SIZE, dtype=dtype)
    return bnb.dequantize_blockwise(codes, state)


_LEVELS: dict[torch.device, Tensor] = {}


def _levels(device: torch.device) -> Tensor:
    """The values of 8 bits, made once for each device."""
    import bitsandbytes.functional as bnb

    if device not in _LEVELS:
        _LEVELS[device] = bnb.create_linear_map(signed=True).to(device)
    return _LEVELS[device]
