from __future__ import annotations

import pytest
import torch
from tinsmith.nn.logprobs import CHUNK_ELEMENTS, target_logprobs, top_logprobs
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
    ours = target_logprobs(project, hidden, target, needs_grad, vocab_size_for(chunk))
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


def test_positions_without_weight_send_no_gradient() -> None:
    hidden, weight, target = inputs()
    hidden.requires_grad_()
    needs_grad = torch.zeros(N, dtype=torch.bool)
    needs_grad[4] = True
    ours = target_logprobs(lambda h: h @ weight.T, hidden, target, needs_grad, V)
    ours.sum().backward()
    assert hidden.grad is not None
    assert hidden.grad.abs().sum(dim=1).nonzero().flatten().tolist() == [4]


def test_without_autograd_the_values_are_the_same() -> None:
    hidden, weight, target = inputs()
    with torch.no_grad():
        ours = target_logprobs(
            lambda h: h @ weight.T, hidden, target, torch.ones(N, dtype=torch.bool), V
        )
    assert not ours.requires_grad
    torch.testing.assert_close(ours, (hidden @ weight.T).log_softmax(1).gather(1, target))


def test_the_likeliest_come_first_over_all_chunks() -> None:
    hidden, weight, _ = inputs()
    ids, logprobs = top_logprobs(lambda h: h @ weight.T, hidden, 4, vocab_size_for(2))
    want, want_ids = (hidden @ weight.T).log_softmax(1).sort(dim=1, descending=True)
    torch.testing.assert_close(logprobs, want[:, :4])
    assert torch.equal(ids, want_ids[:, :4])
