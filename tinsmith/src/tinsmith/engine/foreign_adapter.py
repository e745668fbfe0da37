"""A PEFT adapter that was trained elsewhere, in the form that a run's adapter has.

What differs is made equal without changing what the adapter computes. Its scale goes into B, as
ours is always LORA_ALPHA / rank. Layers of one adapter with different ranks are padded with zeros
to the largest; so is a layer that the adapter leaves out while our switches can't (they turn all
attention layers on or off, for instance): where A and B are both zero, so are their gradients, and
training leaves them at zero. All this holds for stacked experts as for layers, expert by expert.

Shape suffixes: R rank, I inputs, O outputs, E experts (1 for a layer), S rows of A: E R.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tinsmith.domain.errors import InvalidInputError
from tinsmith.domain.ops import LORA_ALPHA, LoraConfig
from tinsmith.engine.target_modules import Part, TargetModule

Arrays = Mapping[str, NDArray[np.float32]]

_NAME = re.compile(r"base_model\.model\.(?P<path>.+)\.lora_(?P<half>[AB])(\.default)?\.weight")
MAX_ALPHA = 1e6
MAX_PATTERN = 256
MAX_REPEATS = 4
_REFUSED = {
    "use_dora": "DoRA scales whole columns",
    "fan_in_fan_out": "its layers are stored transposed",
    "modules_to_save": "it replaces whole layers",
    "layer_replication": "it repeats layers",
    "trainable_token_indices": "it replaces embeddings of tokens",
    "lora_bias": "it trains biases",
    "megatron_config": "its layers are split over devices",
}


def fit(
    config: Mapping[str, Any], arrays: Arrays, targets: Sequence[TargetModule]
) -> tuple[LoraConfig, dict[str, NDArray[np.float32]]]:
    """The run settings that train these layers, and A and B by PEFT's names for all of them.

    Args:
        config: adapter_config.json.
        arrays: adapter_model.safetensors, as fp32.
        targets: the adaptable layers of the base model.

    Raises:
        InvalidInputError: no plain LoRA, or not of this base model.
    """
    _check_config(config)
    pairs = _pairs(arrays)
    by_path = _paths(config, targets)
    for path, (a_SI, b_OS) in pairs.items():
        _check_layer(path, a_SI, b_OS, by_path.get(path))
    rank = max(a_SI.shape[0] // by_path[path].num_experts for path, (a_SI, _) in pairs.items())
    parts = {by_path[path].part for path in pairs}
    lora = LoraConfig(
        rank=rank,
        seed=0,  # only a new adapter is drawn
        train_attn=Part.ATTN in parts,
        train_mlp=Part.MLP in parts,
        train_unembed=Part.UNEMBED in parts,
    )
    found = {by_path[path]: pair for path, pair in pairs.items()}
    fitted: dict[str, NDArray[np.float32]] = {}
    for target in targets:
        if not target.is_trained(lora):
            continue
        num_experts = target.num_experts
        whole_a_ERI = np.zeros((num_experts, rank, target.num_inputs), np.float32)
        whole_b_ORE = np.zeros((target.num_outputs, rank, num_experts), np.float32)
        if target in found:
            a_SI, b_OS = found[target]
            own_rank = a_SI.shape[0] // num_experts
            whole_a_ERI[:, :own_rank] = a_SI.reshape(num_experts, own_rank, -1)
            scale = _scale(config, target, own_rank) / (LORA_ALPHA / rank)
            whole_b_ORE[:, :own_rank] = b_OS.reshape(-1, own_rank, num_experts) * np.float32(scale)
        name = f"base_model.model.{target.peft_path}"
        fitted[f"{name}.lora_A.weight"] = whole_a_ERI.reshape(-1, target.num_inputs)
        fitted[f"{name}.lora_B.weight"] = whole_b_ORE.reshape(target.num_outputs, -1)
    return lora, fitted


def _paths(config: Mapping[str, Any], targets: Sequence[TargetModule]) -> dict[str, TargetModule]:
    """The targets by the names under which this adapter has them. PEFT wraps a module once for
    each of its tensors that is adapted, the first one's wrapper within the next one's."""
    by_path = {target.path: target for target in targets if not target.parameter}
    adapted = [str(name) for name in config.get("target_parameters") or ()]
    for target in reversed(targets):
        whole = _whole_name(target)
        if target.parameter and any(f".{whole}".endswith(f".{name}") for name in adapted):
            path = target.path
            while path in by_path:
                path += ".base_layer"
            by_path[path] = target
    return by_path


def _whole_name(target: TargetModule) -> str:
    return f"{target.path}.{target.parameter}" if target.parameter else target.path


def _check_config(config: Mapping[str, Any]) -> None:
    if config.get("peft_type") != "LORA":
        raise InvalidInputError(
            f"peft_type is {config.get('peft_type')!r}; only LORA adapters can be imported"
        )
    for key, why in _REFUSED.items():
        if config.get(key):
            raise InvalidInputError(
                f"{key} of the adapter is {config[key]!r}: {why}, which cannot be trained on here"
            )
    for key, kind in (("alpha_pattern", dict), ("target_parameters", list)):
        if not isinstance(config.get(key) or kind(), kind):
            raise InvalidInputError(f"{key} of the adapter is no {kind.__name__}")
    for pattern in config.get("alpha_pattern") or ():
        _check_pattern(pattern)
    if config.get("bias", "none") != "none":
        raise InvalidInputError(f"bias of the adapter is {config['bias']!r}; only 'none' is served")


def _check_pattern(pattern: str) -> None:
    """Raises InvalidInputError for what is no regular expression, or may take for ever to match."""
    try:
        re.compile(pattern)
        is_odd = len(pattern) > MAX_PATTERN or len(re.findall(r"[*+?{]", pattern)) > MAX_REPEATS
        is_odd = is_odd or re.search(r"\)[*+?{]", pattern) is not None
    except (re.error, RecursionError, OverflowError):
        is_odd = True
    if is_odd:
        raise InvalidInputError(
            f"alpha_pattern of the adapter has {pattern[:80]!r}; wanted is a simple regular "
            "expression for names of layers"
        )


def _pairs(arrays: Arrays) -> dict[str, tuple[NDArray[np.float32], NDArray[np.float32]]]:
    halves: dict[str, dict[str, NDArray[np.float32]]] = {}
    for name, array in arrays.items():
        match = _NAME.fullmatch(name)
        if match is None:
            raise InvalidInputError(
                f"tensor {name!r} is no A or B of a layer; only those can be imported. PEFT "
                "adds copies of embeddings unless one saves with save_embedding_layers=False"
            )
        if array.ndim != 2:
            raise InvalidInputError(f"tensor {name!r} has shape {list(array.shape)}, no matrix's")
        if not np.isfinite(array).all():
            raise InvalidInputError(f"tensor {name!r} holds values that are not finite")
        halves.setdefault(match["path"], {})[match["half"]] = array
    if not halves:
        raise InvalidInputError("the adapter has no tensors")
    for path, found in halves.items():
        if len(found) != 2:
            raise InvalidInputError(
                f"of layer {path!r} the adapter has only lora_{next(iter(found))}"
            )
    return {path: (found["A"], found["B"]) for path, found in halves.items()}


def _check_layer(
    path: str,
    a_SI: NDArray[np.float32],
    b_OS: NDArray[np.float32],
    target: TargetModule | None,
) -> None:
    if target is None:
        raise InvalidInputError(
            f"the adapter changes {path!r}, which is no adaptable layer of this base model; is it "
            "an adapter of another model?"
        )
    num_rows, num_experts = a_SI.shape[0], target.num_experts
    is_whole = num_rows > 0 and num_rows % num_experts == 0
    fits = a_SI.shape == (num_rows, target.num_inputs) and b_OS.shape == (
        target.num_outputs,
        num_rows,
    )
    if not (is_whole and fits):
        rows = "rank" if num_experts == 1 else f"{num_experts} * rank"
        raise InvalidInputError(
            f"layer {path!r} takes A [{rows}, {target.num_inputs}] and B "
            f"[{target.num_outputs}, {rows}], got {list(a_SI.shape)} and {list(b_OS.shape)}; is it "
            "an adapter of another model?"
        )


def _scale(config: Mapping[str, Any], target: TargetModule, rank: int) -> float:
    alpha = config.get("lora_alpha", 8)
    for pattern, own in (config.get("alpha_pattern") or {}).items():
        if re.match(rf"(.*\.)?({pattern})$", _whole_name(target)):  # PEFT's own rule
            alpha = own
            break
    if not isinstance(alpha, int | float) or not abs(alpha) <= MAX_ALPHA:
        raise InvalidInputError(f"lora_alpha of the adapter is {alpha!r}; a number is wanted")
    return alpha / (math.sqrt(rank) if config.get("use_rslora") else rank)
