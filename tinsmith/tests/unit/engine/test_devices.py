from __future__ import annotations

import pytest
import torch
from tinsmith.domain.errors import InvalidInputError
from tinsmith.engine.devices import (
    SMALL_MODEL_PARAMETERS,
    bf16_by_flags,
    choose_dtype,
    product_gflops,
)

CPU = torch.device("cpu")
LARGE = SMALL_MODEL_PARAMETERS


@pytest.mark.parametrize(
    ("flags", "is_fast", "named"),
    [
        ({"amx_bf16": True, "amx_tile": True, "avx512_bf16": True}, True, "amx_bf16"),
        ({"avx512_bf16": True, "avx512_f": True}, True, "avx512_bf16"),
        ({"architecture": "aarch64", "bf16": True, "sve": True}, True, "bf16"),
        # AVX-512 alone converts to fp32 and back, which is slower than fp32.
        ({"avx512_f": True, "avx512_vnni": True, "avx512_bf16": False}, False, "no bf16"),
        ({}, False, "no bf16"),
    ],
)
def test_a_processor_multiplies_bf16_fast_only_with_instructions_for_it(
    flags: dict[str, object], is_fast: bool, named: str
) -> None:
    answer, reason = bf16_by_flags(flags)
    assert answer is is_fast
    assert named in reason


def test_auto_follows_this_processors_own_flags() -> None:
    is_fast, reason = bf16_by_flags(torch.cpu.get_capabilities())
    choice = choose_dtype("auto", CPU, LARGE)
    assert choice.dtype == (torch.bfloat16 if is_fast else torch.float32)
    assert choice.reason == reason


@pytest.mark.parametrize("device", ["cpu", "mps"])
def test_auto_is_fp32_for_a_small_model_anywhere(device: str) -> None:
    choice = choose_dtype("auto", torch.device(device), LARGE - 1)
    assert (choice.dtype, choice.name) == (torch.float32, "float32")
    assert "50 million" in choice.reason


@pytest.mark.parametrize("num_parameters", [1, LARGE])
def test_a_dtype_that_is_set_is_taken_whatever_the_device_likes(num_parameters: int) -> None:
    assert choose_dtype("bfloat16", CPU, num_parameters).dtype == torch.bfloat16
    assert choose_dtype("float32", CPU, num_parameters).dtype == torch.float32


def test_an_unknown_dtype_is_refused_by_name() -> None:
    with pytest.raises(InvalidInputError, match="'float16' is unknown; use one of auto, float32"):
        choose_dtype("float16", CPU, LARGE)


def test_both_product_rates_are_measured() -> None:
    rates = product_gflops(CPU)
    assert set(rates) == {"float32", "bfloat16"}
    assert all(0.01 < rate < 1e6 for rate in rates.values())
