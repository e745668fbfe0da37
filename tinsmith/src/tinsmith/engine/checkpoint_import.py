"""Adapters from outside become training checkpoints of a home folder."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.torch import load as load_safetensors
from transformers import AutoConfig, AutoModelForCausalLM

from tinsmith.base_models import resolve
from tinsmith.checkpoints.bundles import Bundle, read_bundle
from tinsmith.checkpoints.store import ADAPTER_WEIGHTS, OPTIMIZER
from tinsmith.config import Config
from tinsmith.domain.addresses import CheckpointAddress, check_name
from tinsmith.domain.adopted_runs import IMPORTED
from tinsmith.domain.errors import InvalidInputError
from tinsmith.domain.ops import LORA_ALPHA, LoraConfig
from tinsmith.domain.records import ServedModel
from tinsmith.engine.adapter_config import adapter_config
from tinsmith.engine.adopting import Material, adopt
from tinsmith.engine.foreign_adapter import fit
from tinsmith.engine.target_modules import (
    TargetModule,
    find_targets,
    peft_target_modules,
    peft_target_parameters,
)

Arrays = dict[str, NDArray[Any]]

DTYPES = frozenset({torch.float32, torch.bfloat16, torch.float16, torch.float64, torch.int64})
"""In which adapters and optimizers are stored, the last for numbers of steps."""


@dataclass(frozen=True, slots=True)
class Imported:
    address: CheckpointAddress
    base_model: str
    lora: LoraConfig
    with_optimizer: bool

    def to_json(self) -> dict[str, Any]:
        return {
            "tinker_path": str(self.address),
            "base_model": self.base_model,
            "rank": self.lora.rank,
            "train_attn": self.lora.train_attn,
            "train_mlp": self.lora.train_mlp,
            "train_unembed": self.lora.train_unembed,
            "with_optimizer": self.with_optimizer,
        }


def import_checkpoint(
    config: Config, source: Path, *, owner: str, name: str | None = None, model: str | None = None
) -> Imported:
    """Enter an adapter as a training checkpoint.

    Args:
        source: a training checkpoint downloaded from a tinsmith (optimizer and all), or a PEFT
            adapter, as folder or tar.
        name: of the checkpoint; None takes the old one's, or that of the folder or tar.
        model: the base model as `serve --model` takes it; None goes by what the adapter says.

    Raises:
        InvalidInputError: not readable, not LoRA, not of that base model, a bad name.
        StorageError: the disk refused; nothing is left behind.
    """
    bundle = read_bundle(source)
    chosen = check_name(name or _name_of(bundle))
    if bundle.manifest is not None and bundle.optimizer is not None:
        material = _from_own(bundle, bundle.manifest, bundle.optimizer, model)
    else:
        material = _from_peft(bundle, model, config.engine.trust_remote_code)
    if not 1 <= material.lora.rank <= config.limits.max_rank:
        raise InvalidInputError(
            f"the adapter's rank is {material.lora.rank}; this server takes 1 to "
            f"{config.limits.max_rank} (setting limits.max_rank)"
        )
    address = adopt(config, material, owner=owner, name=chosen, how=IMPORTED)
    return Imported(address, material.base_model, material.lora, material.optimizer is not None)


def _name_of(bundle: Bundle) -> str:
    if bundle.manifest is not None and isinstance(bundle.manifest.get("address"), str):
        return CheckpointAddress.parse(bundle.manifest["address"]).name
    return bundle.title


def _from_own(bundle: Bundle, manifest: Any, optimizer: bytes, model: str | None) -> Material:
    """As it was: the manifest's digests have been checked, so nothing needs to be fitted."""
    details = manifest.get("details")
    details = details if isinstance(details, dict) else {}
    base_model, rank = details.get("base_model"), details.get("rank")
    switches = {key: value for key, value in details.items() if isinstance(value, bool)}
    if (
        not isinstance(base_model, str)
        or type(rank) is not int
        or not {"train_attn", "train_mlp", "train_unembed"} <= switches.keys()
        or bundle.config.get("lora_alpha") != LORA_ALPHA
    ):
        raise InvalidInputError(
            "the manifest is not one of a training checkpoint that this version can go on from; "
            "remove manifest.json and optimizer.safetensors to import the adapter alone"
        )
    if model is not None and (served := resolve(model)).name != base_model:
        raise InvalidInputError(f"this is a checkpoint of {base_model}, not of {served.name}")
    return Material(
        base_model,
        LoraConfig(
            rank,
            seed=0,  # only a new adapter is drawn
            train_attn=switches["train_attn"],
            train_mlp=switches["train_mlp"],
            train_unembed=switches["train_unembed"],
        ),
        _arrays(bundle.weights, ADAPTER_WEIGHTS),
        dict(bundle.config),
        _arrays(optimizer, OPTIMIZER),
    )


def _from_peft(bundle: Bundle, model: str | None, trusted: Collection[str]) -> Material:
    named = bundle.config.get("base_model_name_or_path")
    choice = model or named
    if not isinstance(choice, str) or not choice:
        raise InvalidInputError(
            "the adapter does not say what its base model is; give it with --model, as for serve"
        )
    served = resolve(choice, trusted)
    targets = _targets(served, served.name in trusted)
    lora, adapter = fit(bundle.config, _fp32(_arrays(bundle.weights, ADAPTER_WEIGHTS)), targets)
    trained = [target for target in targets if target.is_trained(lora)]
    return Material(
        served.name,
        lora,
        dict(adapter),
        adapter_config(
            served.name,
            lora.rank,
            peft_target_modules(trained, targets),
            peft_target_parameters(trained),
        ),
        None,
    )


def _targets(served: ServedModel, is_trusted: bool) -> tuple[TargetModule, ...]:
    """The model's adaptable layers, from its configuration: no weights are read."""
    try:
        config = AutoConfig.from_pretrained(served.directory, trust_remote_code=is_trusted)
        with torch.device("meta"):
            model = AutoModelForCausalLM.from_config(config, trust_remote_code=is_trusted)
    except (OSError, ValueError) as error:
        raise InvalidInputError(f"cannot read the base model {served.name}: {error}") from error
    return find_targets(model)


def _arrays(data: bytes, name: str) -> Arrays:
    try:
        tensors = load_safetensors(data)
    except (SafetensorError, KeyError) as error:  # KeyError: a dtype that torch does not have
        raise InvalidInputError(f"{name} is not readable: {error}") from error
    for key, value in tensors.items():
        if value.dtype not in DTYPES:
            raise InvalidInputError(f"tensor {key[:200]!r} of {name} is stored as {value.dtype}")
        if not bool(torch.isfinite(value).all()):
            raise InvalidInputError(f"tensor {key[:200]!r} of {name} holds NaN or infinity")
    return {
        key: (value.float() if value.is_floating_point() else value).numpy()
        for key, value in tensors.items()
    }


def _fp32(arrays: Arrays) -> Arrays:
    return {name: array.astype(np.float32) for name, array in arrays.items()}
