"""Greedy choice against torch's own argmax and log-softmax."""

from __future__ import annotations

import pytest
import torch
from compiled_models import make_model, torch_threads
from tinsmith.nn.compiled.choice import CHUNK
from tinsmith.nn.compiled.decoder import CompiledDecoder


@pytest.fixture(params=[1, 2])
def decoder(request: pytest.FixtureRequest) -> CompiledDecoder:
    with torch_threads(request.param):
        return make_model("llama").compiled()


@pytest.mark.parametrize("vocab_size", [1, 5, 99, CHUNK, CHUNK + 1, 5 * CHUNK + 17])
def test_it_is_argmax_and_its_log_probability(decoder: CompiledDecoder, vocab_size: int) -> None:
    logits = 8 * torch.randn(7, vocab_size, generator=torch.Generator().manual_seed(0))
    tokens, logprobs = decoder.choose_greedily(logits)
    assert torch.equal(tokens, logits.argmax(dim=1))
    want = logits.double().log_softmax(dim=1).amax(dim=1).float()
    torch.testing.assert_close(logprobs, want, rtol=1e-5, atol=1e-6)


def test_the_lowest_of_equals_is_chosen(decoder: CompiledDecoder) -> None:
    logits = torch.zeros(3, 3 * CHUNK)
    logits[1, [CHUNK + 3, CHUNK + 9, 2 * CHUNK]] = 1.0
    logits[2, [CHUNK - 1, CHUNK]] = 1.0
    tokens, _ = decoder.choose_greedily(logits)
    assert tokens.tolist() == [0, CHUNK + 3, CHUNK - 1]


def test_large_and_forbidden_logits(decoder: CompiledDecoder) -> None:
    logits = torch.full((2, 2 * CHUNK), -torch.inf)
    logits[0, CHUNK + 5] = -1e30
    logits[1, [3, CHUNK + 1]] = 1e30
    tokens, logprobs = decoder.choose_greedily(logits)
    assert tokens.tolist() == [CHUNK + 5, 3]
    torch.testing.assert_close(logprobs, torch.tensor([0.0, 0.5]).log().nan_to_num(neginf=0.0))


def test_nan_is_chosen_as_by_torch(decoder: CompiledDecoder) -> None:
    logits = torch.randn(2, 3 * CHUNK, generator=torch.Generator().manual_seed(0))
    logits[1, [CHUNK + 7, 2 * CHUNK]] = torch.nan
    tokens, logprobs = decoder.choose_greedily(logits)
    assert torch.equal(tokens, logits.argmax(dim=1))
    assert logprobs[0].isfinite() and logprobs[1].isnan()


def test_rows_may_lie_apart(decoder: CompiledDecoder) -> None:
    wide = torch.randn(4, 120, generator=torch.Generator().manual_seed(0))
    tokens, _ = decoder.choose_greedily(wide[:, :99])
    assert torch.equal(tokens, wide[:, :99].argmax(dim=1))
