"""The adapter added into the base model's own weights: a model that needs neither PEFT nor us.

W' = W + alpha / rank * B A, computed in fp32, one file of weights at a time. The only module of
mailroom that imports torch; it comes with the extra `mailroom[merged]`.
"""

from __future__ import annotations

import importlib.util
import json
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mailroom.errors import MailroomError

if TYPE_CHECKING:
    import torch

DTYPES = ("float32", "bfloat16", "float16")
INDEX = "model.safetensors.index.json"
SINGLE = "model.safetensors"
PEFT_PREFIX = "base_model.model."
UNEMBED = "lm_head"
EMBED_SUFFIX = "embed_tokens.weight"


@dataclass(frozen=True, slots=True)
class _Update:
    """What is added to one weight matrix."""

    a: torch.Tensor
    """[rank, inputs]"""
    b: torch.Tensor
    """[outputs, rank]"""
    scale: float

    def added_to(self, weight: torch.Tensor) -> torch.Tensor:
        delta = self.scale * (self.b.float() @ self.a.float())
        if delta.shape != weight.shape:
            raise MailroomError(
                f"the adapter changes a matrix of {tuple(delta.shape)} and the base model's is "
                f"{tuple(weight.shape)}: is this the right base model?"
            )
        return weight.float() + delta


def check_installed() -> None:
    """Raises MailroomError without what merging needs; quick, so that nothing is begun in vain."""
    if any(importlib.util.find_spec(name) is None for name in ("torch", "safetensors")):
        raise MailroomError("merging needs torch and safetensors: pip install 'mailroom[merged]'")


def write_merged(adapter: Path, base: Path, out: Path, *, dtype: str = "float32") -> None:
    """Write a model folder that transformers loads by itself.

    An adapter on an output layer that shares its weights with the input embedding ends the sharing:
    the merged model has an output layer of its own.

    Args:
        adapter: a PEFT folder.
        base: the base model's folder in Hugging Face layout.
        out: a folder that does not exist yet.
        dtype: of the merged weights; float32 loses nothing.

    Raises:
        MailroomError: torch is not installed, or adapter and base do not fit.
    """
    check_installed()
    import torch
    from safetensors.torch import load_file, save_file

    updates = _updates(adapter, load_file(adapter / "adapter_model.safetensors"))
    shards = _shards(base)
    targets = {_weight_name(module, shards): update for module, update in updates.items()}
    config = json.loads((base / "config.json").read_text())
    out.mkdir(parents=True)
    _copy_companions(base, out)
    weight_map: dict[str, str] = {}
    for shard in sorted(set(shards.values())):
        weights = load_file(base / shard)
        merged = {name: weight.to(getattr(torch, dtype)) for name, weight in weights.items()}
        for name in weights.keys() & targets.keys():
            merged[name] = targets[name].added_to(weights[name]).to(getattr(torch, dtype))
        embedding = next((name for name in weights if name.endswith(EMBED_SUFFIX)), None)
        if UNEMBED in updates and f"{UNEMBED}.weight" not in shards and embedding is not None:
            own = updates[UNEMBED].added_to(weights[embedding]).to(getattr(torch, dtype))
            merged[f"{UNEMBED}.weight"] = own
            _untie(config)
        save_file(merged, out / shard, metadata={"format": "pt"})
        weight_map |= dict.fromkeys(merged, shard)
    _write_config(out, config, dtype)
    if len(set(weight_map.values())) > 1:
        size = sum((out / shard).stat().st_size for shard in set(weight_map.values()))
        index = {"metadata": {"total_size": size}, "weight_map": weight_map}
        (out / INDEX).write_text(json.dumps(index, indent=1))


def _updates(adapter: Path, tensors: Mapping[str, torch.Tensor]) -> dict[str, _Update]:
    """Module path -> update, from a PEFT folder's tensors."""
    config = json.loads((adapter / "adapter_config.json").read_text())
    unsupported = [key for key in ("use_dora", "rank_pattern", "alpha_pattern") if config.get(key)]
    if unsupported:
        raise MailroomError(f"cannot merge an adapter with {', '.join(unsupported)}")
    rank, alpha = config["r"], config["lora_alpha"]
    scale = alpha / rank**0.5 if config.get("use_rslora") else alpha / rank
    updates = {}
    for name, tensor in tensors.items():
        if not name.endswith((".lora_A.weight", ".lora_B.weight")):
            raise MailroomError(f"cannot merge the adapter's {name}: only plain A and B are known")
        if name.endswith(".lora_B.weight"):
            continue
        module = name.removesuffix(".lora_A.weight")
        other = tensors.get(f"{module}.lora_B.weight")
        if other is None:
            raise MailroomError(f"the adapter has {name} and no B beside it")
        updates[module.removeprefix(PEFT_PREFIX)] = _Update(tensor, other, scale)
    return updates


def _shards(base: Path) -> dict[str, str]:
    """Weight name -> file, of the base model's folder."""
    if (base / INDEX).is_file():
        return json.loads((base / INDEX).read_text())["weight_map"]
    if not (base / SINGLE).is_file():
        raise MailroomError(f"{base} holds no model weights ({SINGLE} or {INDEX})")
    from safetensors import safe_open

    with safe_open(base / SINGLE, framework="pt") as file:
        return dict.fromkeys(file.keys(), SINGLE)


def _weight_name(module: str, shards: Mapping[str, str]) -> str:
    """The base model's name for a module's weight. Files may leave out or add outer names."""
    exact = f"{module}.weight"
    if exact in shards or module == UNEMBED:
        return exact
    inner = exact.removeprefix("model.")
    found = [name for name in shards if name == inner or name.endswith(f".{inner}")]
    if len(found) != 1:
        raise MailroomError(f"the base model has no weight for the adapter's {module}")
    return found[0]


def _untie(config: dict[str, Any]) -> None:
    config["tie_word_embeddings"] = False
    if "text_config" in config:
        config["text_config"]["tie_word_embeddings"] = False


def _write_config(out: Path, config: dict[str, Any], dtype: str) -> None:
    config.pop("torch_dtype", None)
    config.pop("_name_or_path", None)  # may be a folder of whoever saved the base model
    config["dtype"] = dtype
    (out / "config.json").write_text(json.dumps(config, indent=2))


def _copy_companions(base: Path, out: Path) -> None:
    """Tokenizer, chat template, generation settings, licence: all but the weights."""
    for path in sorted(base.iterdir()):
        is_text = path.suffix in (".json", ".jinja", ".txt", ".model", ".md", "")
        if path.is_file() and is_text and path.name not in (INDEX, "config.json", "README.md"):
            shutil.copyfile(path, out / path.name)
