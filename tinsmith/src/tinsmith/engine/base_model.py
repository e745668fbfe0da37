"""One copy of frozen base weights, ready for any number of adapters.

Shape suffixes: T packed tokens, N positions, H hidden size, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from tinsmith.domain.errors import InvalidInputError
from tinsmith.domain.model_limits import ModelLimits
from tinsmith.engine.model_files import load_pretrained
from tinsmith.engine.self_check import check_against_reference
from tinsmith.engine.target_modules import TargetModule, find_targets
from tinsmith.nn.attention import ATTENTION_NAME
from tinsmith.nn.context import Decode, ForwardContext, Prefill, Segment
from tinsmith.nn.lora import AdapterLinear

_ATTENTION_KINDS = ("full_attention", "sliding_attention")
_GROWING_ROPE = ("dynamic", "longrope")
"""These change the rotation of every position once any sequence in the pack is long."""


@dataclass(frozen=True, slots=True)
class LogitScaling:
    """What a model does to its output layer's result: logits * multiplier, then the softcap."""

    multiplier: float = 1.0
    softcap: float | None = None

    @classmethod
    def of(cls, config: Any) -> LogitScaling:
        multiplier = getattr(config, "logit_scale", None)
        divisor = getattr(config, "logits_scaling", None)
        return cls(
            multiplier=(1.0 if multiplier is None else float(multiplier)) / float(divisor or 1.0),
            softcap=getattr(config, "final_logit_softcapping", None),
        )

    def __call__(self, logits: Tensor) -> Tensor:
        logits = logits.float()
        if self.multiplier != 1.0:
            logits = logits * self.multiplier
        if self.softcap is not None:
            logits = self.softcap * torch.tanh(logits / self.softcap)
        return logits


class BaseModel:
    """A decoder-only model of transformers with our attention and an AdapterLinear in the place
    of each layer that an adapter may change. Not thread-safe: one pass at a time."""

    def __init__(self, model: PreTrainedModel, device: torch.device) -> None:
        """Takes `model` over and rewires it.

        Raises:
            InvalidInputError: a kind of model that we would not compute correctly.
        """
        model.requires_grad_(False)
        model.eval()
        self.model = model
        self.device = device
        self.dtype: torch.dtype = model.dtype
        config = model.config.get_text_config(decoder=True)
        check_architecture(config)
        self.context_limit = _context_limit(config)
        """Longest sequence in tokens."""
        self.vocab_size: int = config.vocab_size
        self.hidden_size: int = config.hidden_size
        self.eos_token_ids: tuple[int, ...] = _eos_token_ids(model)
        self.cache_bytes_per_token = _cache_bytes_per_token(config, self.dtype)
        self.context = ForwardContext()
        self.targets: tuple[TargetModule, ...] = find_targets(model)
        """The adaptable layers, in the model's own order; Segment.pairs follows it."""
        for index, target in enumerate(self.targets):
            linear = model.get_submodule(target.path)
            assert isinstance(linear, nn.Linear)
            model.set_submodule(target.path, AdapterLinear(linear, index, self.context))
        decoder = model.get_decoder()
        assert isinstance(decoder, nn.Module)
        self._decoder = decoder
        for module in decoder.modules():
            module.forward_context = self.context  # type: ignore[assignment]
        head = model.get_output_embeddings()
        assert isinstance(head, nn.Module)
        self._head = head
        self._scale_logits = LogitScaling.of(config)
        check_against_reference(self)
        model.set_attn_implementation(ATTENTION_NAME)

    @property
    def limits(self) -> ModelLimits:
        return ModelLimits(self.vocab_size, self.context_limit)

    @classmethod
    def load(
        cls,
        directory: str | Path,
        device: str | torch.device = "cpu",
        dtype: torch.dtype | None = None,
    ) -> BaseModel:
        """Read weights in Hugging Face layout, safetensors only, no code from the checkpoint.

        Args:
            directory: a local folder or a hub id; one file or several shards.
            dtype: of the base weights; None is fp32 on a CPU and bf16 elsewhere.

        Raises:
            InvalidInputError: nothing there, something missing, or a kind that is not supported.
        """
        device = torch.device(device)
        if dtype is None:
            dtype = torch.float32 if device.type == "cpu" else torch.bfloat16
        return cls(load_pretrained(directory, device, dtype, ATTENTION_NAME), device)

    def hidden(
        self,
        token_T: Tensor,
        position_T: Tensor,
        segments: Iterable[Segment],
        attend: Prefill | Decode,
    ) -> Tensor:
        """Final hidden states [T, H] of a pack, before the output layer.

        Args:
            token_T: int64, on the model's device.
            position_T: int64, each token's place in its own sequence.
            segments: which adapter acts on which tokens; none for the plain base model.
        """
        with self.context.running(tuple(segments), attend):
            output = self._decoder(
                input_ids=token_T.unsqueeze(0),
                position_ids=position_T.unsqueeze(0),
                use_cache=False,
            )
        return output.last_hidden_state[0]

    def logits(self, hidden_NH: Tensor, segments: Iterable[Segment]) -> Tensor:
        """Final logits [N, V] in fp32. The segments refer to the N rows given here."""
        with self.context.running(tuple(segments), None):
            return self._scale_logits(self._head(hidden_NH))


def check_architecture(config: Any) -> None:
    kinds = set(getattr(config, "layer_types", None) or ()) - set(_ATTENTION_KINDS)
    if kinds:
        raise InvalidInputError(
            f"model type {config.model_type!r} has layers of kind {sorted(kinds)}, which are not "
            f"supported; supported: {list(_ATTENTION_KINDS)}"
        )


def _context_limit(config: Any) -> int:
    limit = getattr(config, "max_position_embeddings", None)
    if not limit:
        raise InvalidInputError(
            f"the configuration of model type {config.model_type!r} names no "
            "max_position_embeddings, so the longest sequence is unknown"
        )
    rope = getattr(config, "rope_parameters", None) or {}
    # Gemma 3 and others keep one set of parameters per kind of layer.
    sets = [rope, *(value for value in rope.values() if isinstance(value, dict))]
    for parameters in sets:
        original = parameters.get("original_max_position_embeddings")
        if parameters.get("rope_type") in _GROWING_ROPE and original:
            limit = min(limit, original)
    return int(limit)


def _eos_token_ids(model: PreTrainedModel) -> tuple[int, ...]:
    ids: set[int] = set()
    configs = (model.generation_config, model.config, model.config.get_text_config(decoder=True))
    for config in configs:
        eos = getattr(config, "eos_token_id", None)
        if eos is not None:
            ids.update([eos] if isinstance(eos, int) else eos)
    return tuple(sorted(ids))


def _cache_bytes_per_token(config: Any, dtype: torch.dtype) -> int:
    num_heads = getattr(config, "num_key_value_heads", None) or config.num_attention_heads
    head_dim = getattr(config, "head_dim", None) or (
        config.hidden_size // config.num_attention_heads
    )
    return 2 * config.num_hidden_layers * num_heads * head_dim * dtype.itemsize
