"""What the sampling benchmarks compare is comparable: same answers, and bytes counted rightly."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

FOLDER = Path(__file__).parents[2] / "benchmarks"


@pytest.fixture(autouse=True)
def modules(monkeypatch: pytest.MonkeyPatch) -> None:
    """The benchmarks' own modules can be imported, as they can from one of the scripts."""
    monkeypatch.syspath_prepend(str(FOLDER))


def test_both_sides_give_the_same_answers_to_prompts_of_many_lengths(tmp_path: Path) -> None:
    import torch
    from generate_side import generate
    from our_engine import greedy, make_sampler, sampled
    from shapes import SHAPES, write_model
    from tinsmith.engine.base_model import BaseModel
    from transformers import AutoModelForCausalLM

    directory = write_model(SHAPES["negligible"], tmp_path, "float32")
    draw = random.Random(0)
    prompts = [[draw.randrange(8, 256) for _ in range(length)] for length in (3, 17, 40)]

    sampler = make_sampler(BaseModel.load(directory, "cpu", torch.float32))
    ours = sampled(sampler, [greedy(prompt, 6) for prompt in prompts])
    model = AutoModelForCausalLM.from_pretrained(directory, dtype=torch.float32)

    theirs = generate(model.eval(), prompts, 6)
    assert [result.sequences[0].tokens.tolist() for result in ours] == theirs


def test_batches_are_full_and_lie_evenly_over_all_lengths() -> None:
    from generate_side import evenly

    order = list(range(300))

    batches = evenly(order, 32, 60)

    assert [len(batch) for batch in batches] == [32, 32]
    assert [batch[0] for batch in batches] == [2 * 32, 6 * 32]
    assert evenly(order[:5], 8, 5) == [order[:5]]


def test_the_bytes_of_a_step_are_those_of_the_weights_and_of_transformers_cache() -> None:
    import torch
    from reading import step_bytes
    from shapes import SHAPES
    from transformers import Qwen3ForCausalLM

    shape, batch, context = SHAPES["negligible"], 3, 20
    model = Qwen3ForCausalLM(shape.config()).to(torch.bfloat16)
    with torch.inference_mode():
        cache = model(torch.ones(batch, context, dtype=torch.int64)).past_key_values
    cache_bytes = sum(layer.keys.nbytes + layer.values.nbytes for layer in cache.layers)
    weight_bytes = sum(weight.nbytes for weight in model.parameters())

    assert step_bytes(shape, "bfloat16", batch, context, weight_bytes) == weight_bytes + cache_bytes
    # Without what is held, the norms' few weights are left out.
    counted = step_bytes(shape, "bfloat16", batch, context)
    assert counted == pytest.approx(weight_bytes + cache_bytes, rel=0.02)
