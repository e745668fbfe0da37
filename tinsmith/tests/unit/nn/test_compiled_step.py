"""Compiled decoding against transformers' own models and against our layers as they are."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from compiled_models import VOCAB, Model, Run, make_model, make_segment, torch_threads
from tinsmith.nn.compiled.decoder import supports
from tinsmith.nn.context import Prefill, Segment
from tinsmith.nn.lora import lora_reference
from tinsmith.nn.sequences import PackedSequences
from torch import Tensor

LENGTH = 37
WINDOW = {"sliding_window": 7}
QWEN_WINDOW = {**WINDOW, "use_sliding_window": True, "max_window_layers": 1}


def some_tokens(num_rows: int, length: int = LENGTH) -> Tensor:
    g = torch.Generator().manual_seed(2)
    return torch.randint(VOCAB, (num_rows, length), generator=g)


def assert_close(got: Tensor, want: Tensor) -> None:
    """Within 1e-5 of the largest: sums of a thousand terms in another order."""
    torch.testing.assert_close(got, want, rtol=0, atol=1e-5 * want.abs().max().item())


@pytest.mark.parametrize(
    ("kind", "sizes"),
    [
        ("llama", {}),
        ("llama", {"head_dim": 32, "num_attention_heads": 2, "num_key_value_heads": 2}),
        ("llama", {"head_dim": 64, "hidden_size": 54, "intermediate_size": 33}),
        ("mistral", {"head_dim": 80, **WINDOW}),
        ("qwen2", {"head_dim": 16}),
        ("qwen2", {"head_dim": 16, **QWEN_WINDOW}),
        ("qwen3", {"head_dim": 128, "num_attention_heads": 10}),
        ("qwen3", {"num_hidden_layers": 3, **QWEN_WINDOW}),
    ],
)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_steps_give_what_transformers_gives(
    kind: str, sizes: dict[str, Any], dtype: torch.dtype
) -> None:
    model, tokens = make_model(kind, dtype, **sizes), some_tokens(3)
    want = model.reference.model(tokens).last_hidden_state
    assert_close(Run(model, 3, LENGTH).all(tokens), want)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_each_row_is_changed_by_its_own_adapter(dtype: torch.dtype) -> None:
    model, tokens = make_model("qwen3", dtype), some_tokens(9, 20)
    segments = (
        make_segment(model, 5, 0, 2),
        make_segment(model, 16, 3, 8, every=2),
        make_segment(model, 40, 8, 9),
    )
    got = Run(model, 9, 20).all(tokens, segments)
    for row in range(9):
        mine = [s for s in segments if s.start <= row < s.stop]
        assert_close(got[row], by_our_layers(model, tokens[row], mine))


def by_our_layers(model: Model, tokens: Tensor, segments: list[Segment]) -> Tensor:
    """The layers as they prefill, with A and B added to copies of the weights."""
    body = model.reference.model
    before = {name: value.clone() for name, value in model.reference.state_dict().items()}
    names = [name for name, m in model.reference.named_modules() if isinstance(m, torch.nn.Linear)]
    for segment in segments:
        for name, pair in zip(names, segment.pairs, strict=True):
            if pair is not None:
                model.reference.get_submodule(name).weight += segment.scale * pair[1] @ pair[0]
    hidden = body(tokens[None]).last_hidden_state[0]
    model.reference.load_state_dict(before)
    return hidden


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_row_is_the_same_bit_for_bit_whoever_is_beside_it(dtype: torch.dtype) -> None:
    model, tokens = make_model("qwen3", dtype), some_tokens(21)
    adapter = make_segment(model, 12, 3, 17)
    together = Run(model, 21, LENGTH).all(tokens, (adapter,))
    for rows in (slice(0, 1), slice(3, 5), slice(4, 17), slice(19, 21)):
        start, stop = max(rows.start, 3) - rows.start, min(rows.stop, 17) - rows.start
        segments = (replace(adapter, start=start, stop=stop),) if start < stop else ()
        alone = Run(model, 21, LENGTH).all(tokens[rows], segments)
        assert torch.equal(alone, together[rows])


def test_the_number_of_threads_changes_nothing() -> None:
    model, tokens = make_model("llama", intermediate_size=4096), some_tokens(5, 20)
    segments = (make_segment(model, 12, 1, 4),)
    results = []
    for count in (1, 2, 3):
        with torch_threads(count):
            results.append(Run(model, 5, 20).all(tokens, segments))
    assert torch.equal(results[0], results[1])
    assert torch.equal(results[0], results[2])


def test_rows_read_blocks_that_they_share() -> None:
    """Three rows go on from one row's first two blocks, at different lengths."""
    model, tokens = make_model("llama"), some_tokens(3, 50)
    tokens[1:, :32] = tokens[0, :32]
    apart = Run(model, 3, 50).all(tokens)
    run = Run(model, 3, 50)
    for position in range(32):
        run.step(tokens[:1, position], torch.tensor([position]), rows=slice(0, 1))
    run.tables[1:, :2] = run.tables[0, :2]
    for position in range(32, 50):
        got = run.step(tokens[:, position], torch.full((3,), position))
        assert torch.equal(got, apart[:, position])


def test_rows_may_be_of_any_length() -> None:
    model, tokens = make_model("mistral", **WINDOW), some_tokens(3, 40)
    together = Run(model, 3, 40).all(tokens)
    run = Run(model, 3, 40)
    lead = torch.tensor([19, 0, 4])
    for row, ahead in enumerate(lead.tolist()):
        for position in range(ahead):
            run.step(
                tokens[row, position, None], torch.tensor([position]), rows=slice(row, row + 1)
            )
    for position in range(20):
        positions = lead + position
        got = run.step(tokens[torch.arange(3), positions], positions)
        assert torch.equal(got, together[torch.arange(3), positions])


def test_a_row_that_overflows_leaves_its_neighbours_alone() -> None:
    model, tokens = make_model("qwen3", hidden_size=50), some_tokens(4, 6)
    run = Run(model, 4, 6)
    want = run.all(tokens)
    weight = model.embed.weight
    assert isinstance(weight, Tensor)
    weight[VOCAB - 1] = torch.inf
    tokens[:, :] = torch.where(tokens == VOCAB - 1, 0, tokens)
    want = Run(model, 4, 6).all(tokens)
    tokens[2, 3] = VOCAB - 1
    got = run.all(tokens)
    assert not got[2, 3:].isfinite().any()
    others = torch.tensor([0, 1, 3])
    assert torch.equal(got[others], want[others])
    # What it left in the buffers does not reach the next sequence in its row either.
    tokens[2, 3] = 0
    assert torch.equal(run.all(tokens)[others], want[others])
    assert run.all(tokens)[2].isfinite().all()


def test_layers_that_differ_in_size_or_kind_are_left_to_others() -> None:
    model = make_model("llama")
    assert supports(model.decoder, model.head)
    model.decoder.layers[1].up.weight.data = model.decoder.layers[1].up.weight.data.half()
    assert not supports(model.decoder, model.head)


def test_our_own_layers_prefill_what_is_then_decoded() -> None:
    """The same hidden states as from nn.decoder for a whole sequence at once."""
    model, tokens = make_model("qwen2", head_dim=16), some_tokens(1, 20)
    how = Prefill(PackedSequences([20], torch.device("cpu")))
    with torch.no_grad():
        want = model.decoder(tokens[0], torch.arange(20), (), how, None, False)
    assert_close(Run(model, 1, 20).all(tokens)[0], want)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(("inputs", "outputs"), [(48, 99), (37, 5), (1, 4), (130, 23), (64, 4100)])
@pytest.mark.parametrize("num_rows", [1, 2, 3, 4, 7, 16, 33])
def test_logits_of_any_size(inputs: int, outputs: int, num_rows: int, dtype: torch.dtype) -> None:
    model = make_model("qwen3", dtype, hidden_size=inputs, vocab_size=outputs, head_dim=4)
    hidden = torch.randn(num_rows, inputs, generator=torch.Generator().manual_seed(0))
    middle = num_rows // 2
    segments = (make_segment(model, 3, 0, middle), make_segment(model, 24, middle + 1, num_rows))
    segments = tuple(s for s in segments if s.start < s.stop)
    weight = model.head.weight.double()
    wide = [
        replace(s, pairs=[p and (p[0].double(), p[1].double()) for p in s.pairs]) for s in segments
    ]
    want = lora_reference(hidden.double(), weight, None, wide, model.head.index).float()
    assert_close(model.compiled().logits(hidden, segments), want)
