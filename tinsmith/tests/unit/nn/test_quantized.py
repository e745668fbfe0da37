from __future__ import annotations

import pytest
import torch
from tinsmith.nn.quantized import BLOCK_SIZE, QuantizedLinear
from torch import Tensor

pytest.importorskip("bitsandbytes", reason="the extra tinsmith[quantized] is not installed")

# QLoRA (2023), appendix E.
NF4 = torch.tensor(
    [
        -1.0,
        -0.6961928009986877,
        -0.5250730514526367,
        -0.39491748809814453,
        -0.28444138169288635,
        -0.18477343022823334,
        -0.09105003625154495,
        0.0,
        0.07958029955625534,
        0.16093020141124725,
        0.24611230194568634,
        0.33791524171829224,
        0.44070982933044434,
        0.5626170039176941,
        0.7229568362236023,
        1.0,
    ]
)
# The last ones have rows that end inside a block, or a last block that is not full.
SHAPES = [(64, 128), (3, 64), (48, 32), (36, 96), (7, 9), (1, 1)]


def drawn(shape: tuple[int, int]) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(1)) * 0.02


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("bits", [8, 4])
def test_each_weight_becomes_the_nearest_level_of_its_block(
    bits: int, shape: tuple[int, int]
) -> None:
    weight_OI = drawn(shape)
    levels = NF4 if bits == 4 else torch.arange(-127, 128) / 127

    layer = QuantizedLinear(weight_OI, None, bits, torch.float32)

    got = layer.frozen_weight()
    assert got.shape == shape
    for block, got_block in zip(
        weight_OI.flatten().split(BLOCK_SIZE), got.flatten().split(BLOCK_SIZE), strict=True
    ):
        scale = block.abs().max()
        nearest = (block[:, None] - levels * scale).abs().min(dim=1).values
        # Between two levels rounding decides, to a hundredth of the smallest step.
        atol = float(scale) / 127 / 100
        torch.testing.assert_close((got_block - block).abs(), nearest, rtol=0, atol=atol)


@pytest.mark.parametrize(("bits", "bytes_of_a_weight"), [(8, 1.0625), (4, 0.5625)])
def test_a_layer_holds_its_codes_and_scales_and_nothing_else(
    bits: int, bytes_of_a_weight: float
) -> None:
    layer = QuantizedLinear(drawn((128, 192)), torch.ones(128), bits, torch.bfloat16)
    assert layer.num_bytes == bytes_of_a_weight * 128 * 192
    held = [*layer.parameters(), *layer.buffers()]
    assert sum(tensor.untyped_storage().nbytes() for tensor in held) == layer.num_bytes + 2 * 128
    assert layer.frozen_weight() is not layer.frozen_weight()


def test_parts_that_are_quantised_one_after_another_are_as_if_at_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    weight_OI = drawn((40, 96))
    for bits in (8, 4):
        whole = QuantizedLinear(weight_OI, None, bits, torch.float32).frozen_weight()
        with monkeypatch.context() as smaller:
            smaller.setattr("tinsmith.nn.quantized._BLOCKS_AT_ONCE", 7)
            parts = QuantizedLinear(weight_OI, None, bits, torch.float32).frozen_weight()
        assert torch.equal(parts, whole)


@pytest.mark.parametrize("bits", [8, 4])
def test_weights_of_zero_stay_zero(bits: int) -> None:
    layer = QuantizedLinear(torch.zeros(8, 64), None, bits, torch.float32)
    assert not layer.frozen_weight().any()


@pytest.mark.parametrize("bits", [8, 4])
def test_a_layer_alone_multiplies_with_what_it_holds(bits: int) -> None:
    layer = QuantizedLinear(drawn((12, 16)), torch.arange(12.0), bits, torch.float32)
    x_TI = torch.randn(5, 16, generator=torch.Generator().manual_seed(2))
    wanted = x_TI @ layer.frozen_weight().T + torch.arange(12.0)
    torch.testing.assert_close(layer(x_TI), wanted)


def test_other_numbers_of_bits_are_refused() -> None:
    with pytest.raises(ValueError, match="8 or 4 bits, not 3"):
        QuantizedLinear(drawn((4, 4)), None, 3, torch.float32)
