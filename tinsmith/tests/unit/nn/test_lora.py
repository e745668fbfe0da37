from __future__ import annotations

import math

import pytest
import torch
from tinsmith.nn.context import ForwardContext, Pair, Segment
from tinsmith.nn.lora import AdapterLinear, init_pair, lora_reference
from torch import Tensor, nn

I, O = 8, 6  # noqa: E741
NUM_TOKENS = 9


def adapters() -> list[list[Pair | None]]:
    """Three adapters of different ranks; the second leaves the layer (index 1) alone."""
    g = torch.Generator().manual_seed(1)

    def pair(rank: int) -> Pair:
        a = torch.randn(rank, I, generator=g).requires_grad_()
        return a, torch.randn(O, rank, generator=g).requires_grad_()

    return [[None, pair(4)], [None, None], [None, pair(1)]]


def segments(pairs: list[list[Pair | None]]) -> tuple[Segment, ...]:
    # Tokens 3, 4 have no adapter.
    return (
        Segment(pairs[0], 0.5, 0, 3),
        Segment(pairs[1], 9.0, 5, 6),
        Segment(pairs[2], 2.0, 6, 9),
    )


def layer(context: ForwardContext, bias: bool) -> AdapterLinear:
    torch.manual_seed(0)
    linear = nn.Linear(I, O, bias=bias).requires_grad_(False)
    return AdapterLinear(linear, 1, context)


def tokens() -> Tensor:
    return torch.randn(1, NUM_TOKENS, I, generator=torch.Generator().manual_seed(2))


@pytest.mark.parametrize("bias", [True, False])
def test_each_token_sees_only_its_own_adapter(bias: bool) -> None:
    context, pairs = ForwardContext(), adapters()
    adapted, x = layer(context, bias), tokens()
    with torch.no_grad(), context.running(segments(pairs), None):
        y = adapted(x)
        want = lora_reference(x[0], adapted.weight, adapted.bias, segments(pairs), 1)
        base = nn.functional.linear(x, adapted.weight, adapted.bias)
    torch.testing.assert_close(y[0], want)
    torch.testing.assert_close(y[0, 3:6], base[0, 3:6], rtol=0, atol=0)
    assert not torch.allclose(y[0, :3], base[0, :3])


@pytest.mark.parametrize("whole", [True, False], ids=["one_adapter", "several_adapters"])
def test_gradients_equal_those_of_the_obvious_version(whole: bool) -> None:
    context = ForwardContext()
    adapted = layer(context, True)
    grad_out = torch.randn(NUM_TOKENS, O, generator=torch.Generator().manual_seed(3))

    def gradients(fast: bool) -> list[Tensor]:
        pairs, x = adapters(), tokens().requires_grad_()
        here = (Segment(pairs[0], 0.5, 0, NUM_TOKENS),) if whole else segments(pairs)
        with context.running(here, None):
            y = (
                adapted(x)[0]
                if fast
                else lora_reference(x[0], adapted.weight, adapted.bias, here, 1)
            )
        y.backward(grad_out)
        leaves = [leaf for pair in (pairs[0][1], pairs[2][1]) if pair for leaf in pair]
        return [t.grad for t in (x, *leaves) if t.grad is not None]

    ours, wanted = gradients(True), gradients(False)
    assert len(ours) == len(wanted) == (3 if whole else 5)
    for a, b in zip(ours, wanted, strict=True):
        torch.testing.assert_close(a, b)


def test_no_gradient_is_computed_for_an_input_that_wants_none() -> None:
    context, pairs = ForwardContext(), adapters()
    adapted, x = layer(context, True), tokens()
    with context.running((Segment(pairs[0], 0.5, 0, NUM_TOKENS),), None):
        adapted(x).sum().backward()
    assert x.grad is None and adapted.weight.grad is None
    assert pairs[0][1] is not None and pairs[0][1][0].grad is not None


def test_gradients_stay_fp32_under_a_bf16_base() -> None:
    context, pairs = ForwardContext(), adapters()
    adapted = layer(context, True).to(torch.bfloat16)
    with context.running((Segment(pairs[0], 0.5, 0, NUM_TOKENS),), None):
        y = adapted(tokens().to(torch.bfloat16))
    y.float().sum().backward()
    assert y.dtype == torch.bfloat16
    for leaf in pairs[0][1] or ():
        assert leaf.grad is not None and leaf.grad.dtype == torch.float32


def test_the_context_is_as_before_after_a_pass_that_failed() -> None:
    context = ForwardContext()
    with (
        pytest.raises(ZeroDivisionError),
        context.running((Segment([], 1.0, 0, 1),), None),
    ):
        raise ZeroDivisionError
    assert context.segments == () and context.attend is None


def test_a_starts_uniform_within_pefts_bound_and_b_at_zero() -> None:
    a, b = init_pair(64, 400, 30, torch.Generator().manual_seed(0))
    bound = 1 / math.sqrt(400)
    assert a.shape == (64, 400) and b.shape == (30, 64)
    assert not b.any()
    assert 0.99 * bound < a.abs().max() <= bound
    # The standard deviation of a uniform distribution, within 4 standard errors.
    assert a.std().item() == pytest.approx(bound / math.sqrt(3), rel=4 / math.sqrt(a.numel()))
