"""Packed attention against a float64 loop over every query."""

from __future__ import annotations

from functools import partial

import numpy as np
import pytest
import torch
from tinsmith.nn import attention
from tinsmith.nn.attention import AttentionRule, UnsupportedAttentionError, packed_attention
from tinsmith.nn.context import Decode, ForwardContext, Prefill
from tinsmith.nn.kv_cache import KVCache
from tinsmith.nn.sequences import PackedSequences
from torch import Tensor, nn

H, K, D = 4, 2, 8
CPU = torch.device("cpu")
VARIANTS = [
    {},
    {"scaling": 0.7},
    {"sliding_window": 3},
    {"softcap": 0.8},
    {"softcap": 0.8, "sliding_window": 2, "scaling": 0.3},
]
IDS = ["plain", "scaling", "window", "softcap", "all"]


class Layer(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.forward_context = ForwardContext()
        self.layer_idx = 0
        self.is_causal = True


def qkv(num_tokens: int, seed: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    g = torch.Generator().manual_seed(seed)
    q, k, v = (torch.randn(1, heads, num_tokens, D, generator=g) for heads in (H, K, K))
    return q, k, v


def reference(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    lengths: list[int],
    scaling: float = D**-0.5,
    sliding_window: int = 1000,
    softcap: float | None = None,
) -> Tensor:
    """[1, T, H, D]: each query by itself over the keys that it may see, in float64."""
    out = torch.zeros(1, q.shape[2], H, D, dtype=torch.float64)
    start = 0
    for length in lengths:
        for i in range(start, start + length):
            first = max(start, i - sliding_window + 1)
            for head in range(H):
                keys = k[0, head // (H // K), first : i + 1].double()
                scores = keys @ q[0, head, i].double() * scaling
                if softcap is not None:
                    scores = softcap * torch.tanh(scores / softcap)
                weights = scores.softmax(0)
                out[0, i, head] = weights @ v[0, head // (H // K), first : i + 1].double()
        start += length
    return out.float()


@pytest.mark.parametrize("variant", VARIANTS, ids=IDS)
@pytest.mark.parametrize("lengths", [[7], [5, 1, 8, 3], [4, 4, 4]])
def test_attention_stays_inside_each_sequence(
    lengths: list[int], variant: dict[str, float]
) -> None:
    layer, (q, k, v) = Layer(), qkv(sum(lengths))
    with layer.forward_context.running((), Prefill(PackedSequences(lengths, CPU))):
        out, weights = packed_attention(layer, q, k, v, None, **variant)
    assert weights is None
    torch.testing.assert_close(out, reference(q, k, v, lengths, **variant), atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("variant", VARIANTS, ids=IDS)
def test_the_padded_way_equals_the_way_one_by_one_with_its_gradients(
    variant: dict[str, float],
) -> None:
    lengths = [5, 1, 8, 3]
    sequences = PackedSequences(lengths, CPU)
    rule = AttentionRule(
        0, variant.get("scaling"), variant.get("sliding_window"), variant.get("softcap")
    )
    ways = (partial(attention._attend_each, queries=None), attention._attend_padded)
    results = []
    for way in ways:
        inputs = [tensor.requires_grad_() for tensor in qkv(17)]
        out = way(inputs[0], inputs[1], inputs[2], sequences, rule)
        (out * torch.arange(17)[None, :, None, None]).sum().backward()
        results.append([out.detach(), *(tensor.grad for tensor in inputs)])
    for each, padded in zip(*results, strict=True):
        torch.testing.assert_close(each, padded, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("variant", VARIANTS, ids=IDS)
@pytest.mark.parametrize("chosen", [None, [3, 17, 18, 25, 30, 31]], ids=["all", "some"])
def test_a_shared_head_is_seen_by_all_that_continue_it_with_the_same_gradients(
    variant: dict[str, float], chosen: list[int] | None
) -> None:
    sequences = [
        np.concatenate([np.arange(18), tail]) for tail in ([90] * 5, [91] * 3, [92] * 20, [92] * 18)
    ]
    pack = PackedSequences.sharing(sequences, CPU)
    rule = AttentionRule(
        0, variant.get("scaling"), variant.get("sliding_window"), variant.get("softcap")
    )
    asked = np.arange(pack.num_tokens) if chosen is None else np.array(chosen)
    inputs = [tensor.requires_grad_() for tensor in qkv(pack.num_tokens)]
    q, k, v = inputs
    queries = None if chosen is None else pack.queries_of(asked)
    out = attention.attend(Prefill(pack), rule, q[:, :, asked], k, v, queries)

    wanted = torch.zeros(1, pack.num_tokens, H, D)
    for place in pack.places:
        alone = reference(q[:, :, place], k[:, :, place], v[:, :, place], [len(place)], **variant)
        wanted[:, place] = alone
    torch.testing.assert_close(out, wanted[:, asked], atol=1e-5, rtol=1e-4)

    upstream = torch.linspace(-1, 1, pack.num_tokens)[None, :, None, None]
    (out * upstream[:, asked]).sum().backward()
    got = [tensor.grad for tensor in inputs]
    again = [tensor.detach().requires_grad_() for tensor in inputs]
    is_first = {}
    for number, place in enumerate(pack.places):
        for token in place.tolist():
            is_first.setdefault(token, number)
    total = torch.zeros(())
    for number, place in enumerate(pack.places):
        lone = PackedSequences([len(place)], CPU)
        alone = attention.attend(Prefill(lone), rule, *(t[:, :, place] for t in again))
        mine = [p in asked and is_first[p] == number for p in place.tolist()]
        total = total + (alone * upstream[:, place])[:, mine].sum()
    total.backward()
    for ours, theirs in zip(got, again, strict=True):
        torch.testing.assert_close(ours, theirs.grad, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("permuted", [False, True], ids=["row_order", "by_adapter"])
@pytest.mark.parametrize("variant", VARIANTS, ids=IDS)
def test_decoding_token_by_token_equals_one_pass(variant: dict[str, float], permuted: bool) -> None:
    totals, prompts = [9, 6, 11], [4, 1, 6]
    data = [qkv(total, seed) for seed, total in enumerate(totals)]
    layer, cache = Layer(), KVCache(CPU)
    cache.add_rows(prompts)
    packed = [
        torch.cat([data[i][part][:, :, : prompts[i]] for i in range(3)], dim=2) for part in range(3)
    ]
    with layer.forward_context.running((), Prefill(PackedSequences(prompts, CPU), cache)):
        packed_attention(layer, *packed, None, **variant)  # type: ignore[arg-type]
    row_of_token = torch.tensor([2, 0, 1]) if permuted else torch.arange(3)
    for step in range(5):
        cache.begin_step()
        now = [
            torch.cat(
                [data[i][part][:, :, [prompts[i] + step]] for i in row_of_token.tolist()], dim=2
            )
            for part in range(3)
        ]
        attend = Decode(cache, row_of_token, row_of_token.argsort()) if permuted else Decode(cache)
        with layer.forward_context.running((), attend):
            out, _ = packed_attention(layer, *now, None, **variant)  # type: ignore[arg-type]
        for token, row in enumerate(row_of_token.tolist()):
            length = prompts[row] + step + 1
            q, k, v = (tensor[:, :, :length] for tensor in data[row])
            want = reference(q, k, v, [length], **variant)[0, -1]
            torch.testing.assert_close(out[0, token], want, atol=1e-5, rtol=1e-4)


def test_a_window_that_the_model_keeps_to_itself_is_found() -> None:
    layer, (q, k, v) = Layer(), qkv(9)
    layer.sliding_window = 2  # type: ignore[assignment]
    with layer.forward_context.running((), Prefill(PackedSequences([9], CPU))):
        out, _ = packed_attention(layer, q, k, v, None)
    want = reference(q, k, v, [9], sliding_window=2)
    torch.testing.assert_close(out, want, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("term", ["s_aux", "position_bias"])
def test_terms_that_we_do_not_compute_are_refused(term: str) -> None:
    with pytest.raises(UnsupportedAttentionError, match=term):
        packed_attention(Layer(), *qkv(3), None, **{term: torch.zeros(1)})  # type: ignore[arg-type]


def test_masks_and_two_way_attention_are_refused() -> None:
    with pytest.raises(UnsupportedAttentionError, match="mask"):
        packed_attention(Layer(), *qkv(3), torch.zeros(1, 1, 3, 3))
    layer = Layer()
    layer.is_causal = False
    with pytest.raises(UnsupportedAttentionError, match="not causal"):
        packed_attention(layer, *qkv(3), None)
