"""Products with weights held in bf16, computed in fp32."""

from __future__ import annotations

import pytest
import torch
from tinsmith.nn import widened
from torch.nn import functional


@pytest.mark.parametrize("has_bias", [False, True], ids=["plain", "bias"])
@pytest.mark.parametrize("num_tokens", [1, 5])
def test_only_the_weights_are_rounded(
    has_bias: bool, num_tokens: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(widened, "_WIDENED_ELEMENTS", 3 * 7)  # lots of three rows, the last of one
    torch.manual_seed(0)
    held = torch.randn(10, 7).to(torch.bfloat16)
    x, grad = torch.randn(num_tokens, 7), torch.randn(num_tokens, 10)
    bias = torch.randn(10) if has_bias else None

    y = widened.product(x, held, bias)
    torch.testing.assert_close(y, functional.linear(x, held.float(), bias))
    pulled = widened.pull_back(grad, held)
    torch.testing.assert_close(pulled, grad @ held.float())
    before = pulled.clone()
    torch.testing.assert_close(widened.pull_back(grad, held, pulled), before * 2)
