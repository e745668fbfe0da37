from __future__ import annotations

import pytest
import torch
from tinsmith.nn.logprobs import (
    CHUNK_ELEMENTS,
    LogitScaling,
    OutputLayer,
    listed_logprobs,
    target_logprobs,
    top_logprobs,
)
from torch import Tensor

N, H, V = 11, 5, 13


def inputs() -> tuple[Tensor, Tensor, Tensor]:
    g = torch.Generator().manual_seed(0)
    hidden = torch.randn(N, H, generator=g)
    weight = torch.randn(V, H, generator=g)
    return hidden, weight, torch.randint(0, V, (N, 2), generator=g)


def vocab_size_for(chunk: int) -> int:
    """A vocabulary so large that a chunk holds this many positions."""
    return CHUNK_ELEMENTS // chunk


@pytest.mark.parametrize("chunk", [1, 3, N])
def test_values_and_gradients_equal_the_full_matrix_at_any_chunk_length(chunk: int) -> None:
    hidden, weight, target = inputs()
    needs_grad = torch.arange(N) % 3 != 0
    upstream = torch.linspace(-1, 2, 2 * N).view(N, 2)
    largest = 0

    def project(h: Tensor) -> Tensor:
        nonlocal largest
        largest = max(largest, len(h))
        return h @ weight.T

    hidden.requires_grad_()
    weight.requires_grad_()
    output = OutputLayer(project, vocab_size_for(chunk))
    ours = target_logprobs(output, hidden, target, needs_grad)
    (ours * upstream).sum().backward()
    assert hidden.grad is not None and weight.grad is not None
    got = hidden.grad.clone(), weight.grad.clone()
    hidden.grad = weight.grad = None

    wanted = (hidden.double() @ weight.double().T).log_softmax(1).gather(1, target)
    (wanted * upstream * needs_grad[:, None]).sum().backward()

    torch.testing.assert_close(ours.detach(), wanted.detach().float())
    for a, b in zip(got, (hidden.grad, weight.grad), strict=True):
        assert b is not None
        torch.testing.assert_close(a, b)
    assert largest <= chunk


@pytest.mark.parametrize("chunk", [1, 4, N])
@pytest.mark.parametrize(
    "scaling", [LogitScaling(), LogitScaling(0.5), LogitScaling(1.5, softcap=2.0)]
)
def test_a_frozen_output_layer_gives_the_gradient_of_the_full_matrix(
    chunk: int, scaling: LogitScaling
) -> None:
    hidden, weight, targets = inputs()
    target, upstream = targets[:, :1], torch.linspace(-1, 2, N)[:, None]
    needs_grad = torch.arange(N) % 3 != 0
    output = OutputLayer(
        lambda h: h @ weight.T, vocab_size_for(chunk), scaling, lambda grad: grad @ weight
    )
    hidden.requires_grad_()
    ours = target_logprobs(output, hidden, target, needs_grad)
    (ours.square() * upstream).sum().backward()
    assert hidden.grad is not None
    got, hidden.grad = hidden.grad, None

    logits = hidden.double() @ weight.double().T * scaling.multiplier
    if scaling.softcap is not None:
        logits = scaling.softcap * torch.tanh(logits / scaling.softcap)
    wanted = logits.log_softmax(1).gather(1, target)
    (wanted.square() * upstream * needs_grad[:, None]).sum().backward()
    torch.testing.assert_close(ours.detach(), wanted.detach().float())
    torch.testing.assert_close(got, hidden.grad)


def test_positions_without_weight_send_no_gradient() -> None:
    hidden, weight, target = inputs()
    hidden.requires_grad_()
    needs_grad = torch.zeros(N, dtype=torch.bool)
    needs_grad[4] = True
    ours = target_logprobs(OutputLayer(lambda h: h @ weight.T, V), hidden, target, needs_grad)
    ours.sum().backward()
    assert hidden.grad is not None
    assert hidden.grad.abs().sum(dim=1).nonzero().flatten().tolist() == [4]


def test_without_autograd_the_values_are_the_same() -> None:
    hidden, weight, target = inputs()
    with torch.no_grad():
        output = OutputLayer(lambda h: h @ weight.T, V)
        ours = target_logprobs(output, hidden, target, torch.ones(N, dtype=torch.bool))
    assert not ours.requires_grad
    torch.testing.assert_close(ours, (hidden @ weight.T).log_softmax(1).gather(1, target))


def test_the_likeliest_come_first_over_all_chunks() -> None:
    hidden, weight, _ = inputs()
    output = OutputLayer(lambda h: h @ weight.T, vocab_size_for(2))
    ids, logprobs = top_logprobs(output, hidden, 4)
    want, want_ids = (hidden @ weight.T).log_softmax(1).sort(dim=1, descending=True)
    torch.testing.assert_close(logprobs, want[:, :4])
    assert torch.equal(ids, want_ids[:, :4])


@pytest.mark.parametrize("chunk", [1, 4, N])
def test_any_number_of_tokens_is_scored_at_each_position(chunk: int) -> None:
    hidden, weight, _ = inputs()
    row = torch.tensor([0, 0, 0, 2, 3, 3, 9])
    token = torch.tensor([1, 12, 0, 5, 7, 7, 2])
    output = OutputLayer(lambda h: h @ weight.T, vocab_size_for(chunk))

    wanted = (hidden.double() @ weight.double().T).log_softmax(1)[row, token]

    torch.testing.assert_close(listed_logprobs(output, hidden, row, token), wanted.float())
