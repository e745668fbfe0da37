"""Packed attention against a float64 loop over every query."""

from __future__ import annotations

from functools import partial

import numpy as np
import pytest
import torch
from tinsmith.nn import attention
from tinsmith.nn.attention import AttentionRule, UnsupportedAttentionError, packed_attention
from tinsmith.nn.cached_sequences import Decode, Extend, Run
from tinsmith.nn.context import ForwardContext, Prefill
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


@pytest.mark.parametrize("variant", VARIANTS, ids=IDS)
def test_runs_and_single_tokens_through_the_cache_equal_one_pass(
    variant: dict[str, float],
) -> None:
    totals = [41, 6, 23]
    data = [qkv(total, seed) for seed, total in enumerate(totals)]
    tables = np.array([[4, 0, 7], [2, 2, 2], [6, 3, 3]])
    layer, cache = Layer(), KVCache(CPU)
    cache.reserve(8)
    done, found = [0, 0, 0], [[], [], []]
    # The second pass begins inside of blocks, and in another order; the last is one of each.
    for parts in (
        [(0, 17), (1, 3), (2, 16)],
        [(2, 6), (0, 22)],
        [(1, 2)],
        [(2, 1), (0, 2), (1, 1)],
    ):
        parts = [(i, min(n, totals[i] - done[i])) for i, n in parts]
        starts = np.cumsum([0, *(n for _, n in parts)])
        is_step = all(n == 1 for _, n in parts)
        if is_step:
            rows = [i for i, _ in parts]
            how = Decode(cache, tables[rows].astype(np.int32), np.array([done[i] for i in rows]))
        else:
            how = Extend(
                cache,
                [
                    Run(int(start), done[i], n, tables[i])
                    for start, (i, n) in zip(starts, parts, strict=False)
                ],
            )
        now = [
            torch.cat([data[i][part][:, :, done[i] : done[i] + n] for i, n in parts], dim=2)
            for part in range(3)
        ]
        with layer.forward_context.running((), how):
            out, _ = packed_attention(layer, *now, None, **variant)  # type: ignore[arg-type]
        for start, (i, n) in zip(starts, parts, strict=False):
            found[i].append(out[0, start : start + n])
            done[i] += n

    for i, (q, k, v) in enumerate(data):
        want = reference(*(t[:, :, : done[i]] for t in (q, k, v)), [done[i]], **variant)[0]
        torch.testing.assert_close(torch.cat(found[i]), want, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("variant", VARIANTS, ids=IDS)
def test_what_others_left_in_a_block_is_not_seen(variant: dict[str, float]) -> None:
    layer, cache, (q, k, v) = Layer(), KVCache(CPU), qkv(9)
    cache.reserve(2)
    cache.allocate(0, K, D, torch.float32)
    for tensor in cache.layer(0):
        tensor.fill_(torch.nan)
    table = np.array([1, 0])
    for how in (
        Extend(cache, [Run(0, 0, 3, table)]),
        Extend(cache, [Run(0, 3, 5, table)]),
        Decode(cache, table[None].astype(np.int32), np.array([8])),
    ):
        first, last = (8, 9) if isinstance(how, Decode) else (how.runs[0].position, how.runs[0].end)
        with layer.forward_context.running((), how):
            out, _ = packed_attention(
                layer, *(t[:, :, first:last] for t in (q, k, v)), None, **variant
            )
        want = reference(*(t[:, :, :last] for t in (q, k, v)), [last], **variant)[:, first:last]
        torch.testing.assert_close(out, want, atol=1e-5, rtol=1e-4)


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
