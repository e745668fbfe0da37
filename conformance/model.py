"""The model that the cookbook's programs train: tinsmith's built-in one, changed in two ways.

Its output layer is a matrix of its own instead of the embeddings once more, as the cookbook's
merge cannot put an adapter on the output layer into embeddings that two places share. And its
weights are stored in 32 bits, so that a merged model differs from model and adapter by rounding in
the 7th digit only.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from tinsmith.base_models import BUILTIN_DIRECTORY

NAME = "Qwen/Qwen3-8B-Base"
"""Out of the cookbook's table of models, where recipes without an option for it find their
renderer. This name leads to `role_colon`, which needs no special tokens."""


def write(directory: Path) -> None:
    directory.mkdir(parents=True)
    config = json.loads((BUILTIN_DIRECTORY / "config.json").read_text())
    config |= {"tie_word_embeddings": False, "dtype": "float32"}
    (directory / "config.json").write_text(json.dumps(config, indent=2))
    for file in BUILTIN_DIRECTORY.glob("tokenizer*.json"):
        shutil.copy(file, directory)
    weights = load_file(BUILTIN_DIRECTORY / "model.safetensors")
    weights = {name: tensor.to(torch.float32) for name, tensor in weights.items()}
    weights["lm_head.weight"] = weights["model.embed_tokens.weight"].clone()
    save_file(weights, directory / "model.safetensors", metadata={"format": "pt"})
