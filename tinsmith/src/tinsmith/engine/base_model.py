"""One copy of frozen base weights, ready for any number of adapters.

Shape suffixes: T packed tokens, N positions, H hidden size, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint
from transformers import PreTrainedModel

from tinsmith.domain.errors import InvalidInputError
from tinsmith.domain.model_limits import ModelLimits
from tinsmith.engine.activation_memory import ActivationMemory
from tinsmith.engine.devices import arithmetic_of
from tinsmith.engine.model_files import load_pretrained
from tinsmith.engine.quantization import quantization_of
from tinsmith.engine.self_check import check_against_reference, check_experts
from tinsmith.engine.target_modules import TargetModule, decoder_layers, find_targets
from tinsmith.nn.attention import ATTENTION_NAME
from tinsmith.nn.cached_sequences import Decode, Extend
from tinsmith.nn.compiled.decoder import MOST_ROWS, CompiledDecoder
from tinsmith.nn.compiled.decoder import supports as is_compilable
from tinsmith.nn.context import Attend, ForwardContext, Prefill, Segment
from tinsmith.nn.decoder import FAMILIES, Asked, Decoder
from tinsmith.nn.experts import AdapterExperts
from tinsmith.nn.logprobs import LogitScaling, OutputLayer
from tinsmith.nn.lora import AdapterLinear
from tinsmith.nn.quantized import QuantizedLinear
from tinsmith.nn.sampling import likeliest

_ATTENTION_KINDS = ("full_attention", "sliding_attention")
_GROWING_ROPE = ("dynamic", "longrope")
"""These change the rotation of every position once any sequence in the pack is long."""


@dataclass(frozen=True, slots=True, eq=False)
class Places:
    """Packed places, each set ascending."""

    differentiable: NDArray[np.int64]
    constant: NDArray[np.int64]
    """Hidden states are wanted here too, but no gradient comes back from them."""

    def __len__(self) -> int:
        return len(self.differentiable) + len(self.constant)


class BaseModel:
    """A decoder-only model of transformers with our attention, and an AdapterLinear or
    AdapterExperts in the place of each layer that an adapter may change. Not thread-safe: one
    pass at a time."""

    def __init__(
        self,
        model: PreTrainedModel,
        device: torch.device,
        *,
        own_layers: bool = True,
        arithmetic: torch.dtype | None = None,
    ) -> None:
        """Takes `model` over and rewires it.

        Args:
            arithmetic: the dtype to compute in. None is fp32 for bf16 on a processor that has no
                products of its own for it, and else the weights'.
            own_layers: run layers of a kind that nn.decoder knows with its code; otherwise, and
                for all other kinds, with transformers'.

        Raises:
            InvalidInputError: a kind of model that we would not compute correctly.
        """
        model.requires_grad_(False)
        model.eval()
        self.model = model
        self.device = device
        config = model.config.get_text_config(decoder=True)
        check_architecture(config)
        self.context_limit = _context_limit(config)
        """Longest sequence in tokens."""
        self.vocab_size: int = config.vocab_size
        self.hidden_size: int = config.hidden_size
        self.num_layers: int = config.num_hidden_layers
        self.eos_token_ids: tuple[int, ...] = _eos_token_ids(model)
        self.quantization = quantization_of(model)
        """8bit, 4bit or nothing."""
        self.context = ForwardContext()
        self.on_pause: Callable[[], None] | None = None
        """Called between the layers of every pass, forward and backward. It may run a pass itself,
        and must leave threads and this as it found them."""
        self.targets: tuple[TargetModule, ...] = find_targets(model)
        """The adaptable layers, in the model's own order; Segment.pairs follows it."""
        if arithmetic is None:
            can_widen = not self.quantization and _is_widenable(model, self.targets)
            arithmetic = arithmetic_of(model.dtype, device) if can_widen else model.dtype
        self.dtype: torch.dtype = arithmetic
        """Of activations, keys and values."""
        if self.dtype != model.dtype:
            _widen(model, self.targets, self.dtype)
        self.cache_bytes_per_token = _cache_bytes_per_token(config, self.dtype)
        for index, target in enumerate(self.targets):
            module = model.get_submodule(target.path)
            if isinstance(module, nn.Linear | QuantizedLinear):
                model.set_submodule(target.path, AdapterLinear(module, index, self.context))
            elif not isinstance(module, AdapterExperts):  # one module has two targets in a row
                experts = AdapterExperts(module, index, self.context)
                check_experts(experts, module, target.path)
                model.set_submodule(target.path, experts)
        self.experts = [one for one in model.modules() if isinstance(one, AdapterExperts)]
        """One for each layer of a mixture of experts; of other models none."""
        decoder = model.get_decoder()
        assert isinstance(decoder, nn.Module)
        self._decoder = decoder
        for module in decoder.modules():
            module.forward_context = self.context  # type: ignore[assignment]
        self._layers = None
        if own_layers and config.model_type in FAMILIES and config.hidden_act == "silu":
            self._layers = Decoder(decoder)
        else:
            _make_checkpointable(model, self.context, self._pause)
        head = model.get_output_embeddings()
        assert isinstance(head, AdapterLinear)
        self._head = head
        self._compiled = None
        layers = self._layers if self.dtype == torch.float32 else None
        if layers is not None and is_compilable(layers, head):
            self._compiled = CompiledDecoder(layers, head)
        self._scaling = LogitScaling.of(config)
        check_against_reference(self)
        model.set_attn_implementation(ATTENTION_NAME)
        self.activation_memory = ActivationMemory.measured(self)

    @property
    def limits(self) -> ModelLimits:
        return ModelLimits(self.vocab_size, self.context_limit)

    @classmethod
    def load(
        cls,
        directory: str | Path,
        device: str | torch.device = "cpu",
        dtype: torch.dtype | None = None,
        *,
        own_layers: bool = True,
        quantize: str = "",
        arithmetic: torch.dtype | None = None,
        trust_remote_code: bool = False,
    ) -> BaseModel:
        """Read weights in Hugging Face layout, safetensors only.

        Args:
            directory: a local folder or a hub id; one file or several shards.
            dtype: of the base weights; None is fp32 on a CPU and bf16 elsewhere.
            own_layers: see __init__.
            quantize: 8bit or 4bit, of the decoder's linear layers; empty for none.
            arithmetic: see __init__.
            trust_remote_code: whether Python code that comes with the model may run.

        Raises:
            InvalidInputError: nothing there, something missing, or a kind that is not supported.
        """
        device = torch.device(device)
        if dtype is None:
            dtype = torch.float32 if device.type == "cpu" else torch.bfloat16
        model = load_pretrained(
            directory, device, dtype, ATTENTION_NAME, quantize, trust_remote_code
        )
        return cls(model, device, own_layers=own_layers, arithmetic=arithmetic)

    def hidden(
        self,
        token_T: Tensor,
        position_T: Tensor,
        segments: Iterable[Segment],
        attend: Attend,
        *,
        asked: Places | None = None,
        checkpointing: bool = False,
    ) -> Tensor:
        """Final hidden states of a pack, before the output layer.

        Args:
            token_T: int64, on the model's device.
            position_T: int64, each token's place in its own sequence.
            segments: which adapter acts on which tokens; none for the plain base model.
            asked: the places whose hidden states are wanted; None is all.
            checkpointing: for backward keep each layer's input only, and compute the rest again.

        Returns:
            [T, H], or [M, H]: first the differentiable places, then the constant ones.
        """
        segments = tuple(segments)
        with self.context.running(segments, attend, checkpointing):
            if isinstance(attend, Decode) and self._compiles(len(token_T)):
                return self._decoded(token_T, position_T, segments, attend)
            if self._layers is not None:
                groups = None
                if asked is not None:
                    assert not isinstance(attend, Decode)
                    groups = self._groups(asked, attend, segments)
                return self._layers(
                    token_T, position_T, segments, attend, groups, checkpointing, self._pause
                )
            output = self._decoder(
                input_ids=token_T.unsqueeze(0),
                position_ids=position_T.unsqueeze(0),
                use_cache=False,
            )
        hidden_TH = output.last_hidden_state[0]
        if asked is None:
            return hidden_TH
        place_M = np.concatenate([asked.differentiable, asked.constant])
        return hidden_TH.index_select(0, torch.from_numpy(place_M).to(self.device))

    def _pause(self) -> None:
        if self.on_pause is not None:
            self.on_pause()

    def _compiles(self, num_rows: int) -> bool:
        """Whether the compiled step is the fastest way to take so many rows one token further."""
        return self._compiled is not None and num_rows <= MOST_ROWS

    def _decoded(
        self, token_B: Tensor, position_B: Tensor, segments: tuple[Segment, ...], attend: Decode
    ) -> Tensor:
        assert self._compiled is not None and self._layers is not None
        x_BH, cos_BD, sin_BD = self._layers.inputs(token_B, position_B)
        caches = [attend.cache.layer(layer) for layer in range(self.num_layers)]
        tables_BN = torch.from_numpy(attend.tables_BN)
        return self._compiled.step(x_BH, cos_BD, sin_BD, segments, caches, tables_BN, position_B)

    def _groups(
        self, asked: Places, attend: Prefill | Extend, segments: Sequence[Segment]
    ) -> list[Asked]:
        pack = attend.sequences if isinstance(attend, Prefill) else attend
        return [
            Asked(
                torch.from_numpy(places).to(self.device),
                pack.queries_of(places),
                _among(segments, places),
                is_constant,
            )
            for places, is_constant in ((asked.differentiable, False), (asked.constant, True))
            if len(places)
        ]

    def logits(self, hidden_NH: Tensor, segments: Iterable[Segment]) -> Tensor:
        """Final logits [N, V] in fp32, good until the next call. The segments refer to the N rows
        given here."""
        segments = tuple(segments)
        if self._compiled is not None and self._compiles(len(hidden_NH)):
            return self._scaling(self._compiled.logits(hidden_NH, segments))
        with self.context.running(segments, None):
            return self._scaling(self._head(hidden_NH))

    def likeliest(self, logits_NV: Tensor) -> tuple[Tensor, Tensor]:
        """The likeliest token of each row, int64 [N], the lowest id among equals, and its log p."""
        if self._compiled is not None:
            return self._compiled.choose_greedily(logits_NV)
        return likeliest(logits_NV)

    def output_layer(self, segment: Segment | None) -> OutputLayer:
        """The output layer under one adapter, for any number of rows."""

        def project(hidden_CH: Tensor) -> Tensor:
            self._pause()
            segments = () if segment is None else (replace(segment, start=0, stop=len(hidden_CH)),)
            with self.context.running(segments, None):
                return self._head(hidden_CH)

        def pull_back(grad_CV: Tensor) -> Tensor:
            return self._head.pull_back(grad_CV)

        is_adapted = segment is not None and segment.pairs[self._head.index] is not None
        return OutputLayer(
            project, self.vocab_size, self._scaling, None if is_adapted else pull_back
        )


def _among(segments: Iterable[Segment], places: NDArray[np.int64]) -> tuple[Segment, ...]:
    """Segments of some packed places, given ascending, counted among these."""
    return tuple(
        replace(one, start=int(start), stop=int(stop))
        for one in segments
        for start, stop in [np.searchsorted(places, [one.start, one.stop])]
    )


def _is_widenable(model: PreTrainedModel, targets: Iterable[TargetModule]) -> bool:
    """Not so experts, and embeddings that compute something, which they would do in bf16."""
    is_looked_up = type(model.get_input_embeddings()) is nn.Embedding
    return is_looked_up and all(target.num_experts == 1 for target in targets)


def _widen(model: PreTrainedModel, targets: Iterable[TargetModule], dtype: torch.dtype) -> None:
    """Compute in a wider dtype than that in which linear layers and embeddings stay."""
    held = {target.path for target in targets}
    for path, module in model.named_modules():
        if isinstance(module, nn.Embedding):
            module.register_forward_hook(lambda _, args, output: output.to(dtype))
        elif path not in held:
            for name, parameter in module.named_parameters(recurse=False):
                setattr(module, name, nn.Parameter(parameter.to(dtype), requires_grad=False))
        elif (bias := getattr(module, "bias", None)) is not None:
            module.bias = nn.Parameter(bias.to(dtype), requires_grad=False)


def _make_checkpointable(
    model: PreTrainedModel, context: ForwardContext, pause: Callable[[], None]
) -> None:
    """Let each of transformers' decoder layers run under activation checkpointing when the pass
    asks for it; what the pass had set is set again while a layer is computed again.

    Args:
        pause: called before each layer's forward pass.
    """

    def wrap(forward: Callable[..., Any]) -> Callable[..., Any]:
        def run(*args: Any, **kwargs: Any) -> Any:
            pause()
            if not (context.checkpointing and torch.is_grad_enabled()):
                return forward(*args, **kwargs)
            segments, attend = context.segments, context.attend

            def again(*args: Any, **kwargs: Any) -> Any:
                with context.running(segments, attend):
                    return forward(*args, **kwargs)

            return checkpoint(again, *args, use_reentrant=False, preserve_rng_state=False, **kwargs)

        return run

    _, layers = decoder_layers(model)
    for layer in layers:
        layer.forward = wrap(layer.forward)


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
