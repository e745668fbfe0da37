"""The benchmarks can be asked what they do, and count operations as torch does."""

from __future__ import annotations

import json
import subprocess
import sys
import warnings
from pathlib import Path

import pytest

FOLDER = Path(__file__).parents[2] / "benchmarks"
SCRIPTS = sorted(
    path.stem for path in FOLDER.glob("*.py") if 'if __name__ == "__main__"' in path.read_text()
)
NOT_ASKED = ("side", "sdk_clients")
"""The child's end of a comparison: a program, but none for people."""


@pytest.fixture
def modules(monkeypatch: pytest.MonkeyPatch) -> None:
    """The benchmarks' own modules can be imported, as they can from one of the scripts."""
    monkeypatch.syspath_prepend(str(FOLDER))


@pytest.mark.parametrize("name", [name for name in SCRIPTS if name not in NOT_ASKED])
def test_a_benchmark_says_what_it_measures_and_is_in_the_readme(name: str) -> None:
    asked = subprocess.run(
        [sys.executable, str(FOLDER / f"{name}.py"), "--help"],
        capture_output=True,
        text=True,
        check=True,
    )
    for option in ("--quick", "--json", "--keep"):
        assert option in asked.stdout
    assert f"`{name}`" in (FOLDER / "README.md").read_text()


def test_a_row_that_was_not_compared_has_the_columns_all_the_same(modules: None) -> None:
    from rows import COLUMNS, row, table

    compared = row("a", ours=6.0, theirs=2.0, limit=12.0, unit="tokens/s")
    alone = row("b", ours=1.0, unit="s")
    assert (compared["ratio"], compared["share_of_limit"]) == (3.0, 0.5)
    assert {*COLUMNS} <= alone.keys()
    assert json.loads(json.dumps(alone))["theirs"] is None
    assert len(table([compared, alone]).splitlines()) == 3


@pytest.mark.parametrize("length", [7, 24])
def test_the_operations_of_a_step_are_those_that_torch_counts(modules: None, length: int) -> None:
    import torch
    from operations import of_sequences
    from peft_side import lora_config
    from shapes import Shape
    from torch.utils.flop_counter import FlopCounterMode
    from transformers import Qwen3ForCausalLM

    shape = Shape(hidden=32, layers=3, intermediate=48, heads=4, kv_heads=2, head_dim=16, vocab=96)
    config = shape.config()
    config._attn_implementation = "eager"  # torch's counter knows no fused attention of the CPU
    base = Qwen3ForCausalLM(config)
    with warnings.catch_warnings():
        # PEFT 0.21 asks transformers for a property by its old name.
        warnings.filterwarnings("ignore", message=".*is_gradient_checkpointing.*")
        warnings.filterwarnings("ignore", message=".*tie_word_embeddings.*")
        import peft

        model = peft.get_peft_model(base, lora_config(rank=4))
    ids = torch.arange(2 * length).view(2, length) % shape.vocab
    counter = FlopCounterMode(display=False)
    with counter:
        model(input_ids=ids, labels=ids, use_cache=False).loss.backward()

    # Dense attention computes the whole square of each sequence, and the output layer every row.
    counted = of_sequences(shape, [length, length], 2 * length, rank=4, causal=False)

    # The rotation's own table of angles is a product too, of less than a thousandth.
    assert counter.get_total_flops() == pytest.approx(counted.total, rel=1e-3)
