from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from tinsmith.base_models import BUILTIN_DIRECTORY
from tinsmith.domain.errors import InvalidInputError
from tinsmith.engine.loss_gap import TEXT, measure_loss_gap
from transformers import AutoModelForCausalLM, AutoTokenizer

pytest.importorskip("bitsandbytes", reason="the extra tinsmith[quantized] is not installed")
CPU = torch.device("cpu")


def test_the_loss_is_what_transformers_computes_and_more_bits_lie_closer_to_it() -> None:
    gaps = {
        quantize: measure_loss_gap(BUILTIN_DIRECTORY, CPU, torch.float32, quantize)
        for quantize in ("8bit", "4bit")
    }
    model = AutoModelForCausalLM.from_pretrained(BUILTIN_DIRECTORY, dtype=torch.float32)
    tokens = AutoTokenizer.from_pretrained(BUILTIN_DIRECTORY)(TEXT, return_tensors="pt").input_ids
    with torch.no_grad():
        wanted = float(model(tokens, labels=tokens).loss)
    for gap in gaps.values():
        assert gap.num_tokens == tokens.shape[1]
        assert gap.loss == pytest.approx(wanted, rel=1e-5)
        assert gap.gap == gap.quantized_loss - gap.loss
    assert 0 < abs(gaps["8bit"].gap) < abs(gaps["4bit"].gap) < 0.1


def test_a_model_without_a_tokenizer_is_refused(model_dir: Callable[[str], Path]) -> None:
    with pytest.raises(InvalidInputError, match="cannot read text with the model"):
        measure_loss_gap(model_dir("qwen3"), CPU, torch.float32, "8bit")


def test_a_text_beyond_the_context_is_refused() -> None:
    with pytest.raises(InvalidInputError, match="the model takes"):
        measure_loss_gap(BUILTIN_DIRECTORY, CPU, torch.float32, "8bit", TEXT * 100)
