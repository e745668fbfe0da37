"""Decoder layers of the pre-norm, rotary, gated kind (Llama, Mistral, Qwen2, Qwen3), with gradients
written by hand.

A layer is two autograd functions with the attention between them. Each keeps its input, what its
matrix products gave, and no more: norms, gates and rotations are computed again in backward, where
they cost little beside a product. Left to autograd, the same layer keeps half as much again and
reads it all more often. The last layer works only at the positions that are asked for: of the
others nothing but keys and values is needed.

Shape suffixes: T packed tokens, Q asked positions (T but in the last layer), H hidden size,
N heads, D head dimension, F width of the gated layer, A attention's width N * D.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

from tinsmith.nn.attention import AttentionRule, Queries, attend
from tinsmith.nn.context import Attend, Pair, Segment
from tinsmith.nn.lora import AdapterLinear, adapted_product, product_gradients
from tinsmith.nn.rms_norm import normalised, rms_norm, rms_norm_gradient
from tinsmith.nn.rotary import rotate, rotate_gradient

FAMILIES = frozenset({"llama", "mistral", "qwen2", "qwen3"})
"""transformers' model types whose layers are of this kind."""


@dataclass(frozen=True, slots=True, eq=False)
class Norm:
    weight: Tensor
    eps: float

    @classmethod
    def of(cls, module: Any) -> Norm:
        return cls(module.weight, module.variance_epsilon)


@dataclass(frozen=True, slots=True, eq=False)
class Asked:
    """Positions whose final hidden state is wanted."""

    rows_Q: Tensor
    """int64, ascending packed places."""
    queries: Queries
    """The same, by span."""
    segments: tuple[Segment, ...]
    """Which adapters act on which of them, counted among themselves."""
    is_constant: bool = False
    """Whether no gradient will come back from them."""


@dataclass(frozen=True, slots=True, eq=False)
class Step:
    """What one layer's pass needs beside its input."""

    how: Attend
    cos_TD: Tensor
    sin_TD: Tensor
    segment: Segment | None
    """The one adapter that acts on all tokens, where gradients are wanted."""
    pause: Callable[[], None]
    """Called before each half of a layer's work, forward and backward."""
    asked: Asked | None = None

    def pair_of(self, linear: AdapterLinear) -> Pair | None:
        return None if self.segment is None else self.segment.pairs[linear.index]

    @property
    def scale(self) -> float:
        return 1.0 if self.segment is None else self.segment.scale

    def chosen(self, rows: Tensor) -> Tensor:
        return rows if self.asked is None else rows.index_select(0, self.asked.rows_Q)


class Decoder:
    """The layers of one model, over the very modules (weights, AdapterLinear) that it holds."""

    def __init__(self, model: nn.Module) -> None:
        """`model` is transformers' decoder of one of FAMILIES, its linear layers replaced."""
        body: Any = model
        self._embed: nn.Module = body.embed_tokens
        self._rotary: nn.Module = body.rotary_emb
        self.norm = Norm.of(body.norm)
        self.layers = [DecoderLayer(layer) for layer in body.layers]

    def __call__(
        self,
        token_T: Tensor,
        position_T: Tensor,
        segments: Sequence[Segment],
        how: Attend,
        asked: Sequence[Asked] | None,
        checkpointing: bool,
        pause: Callable[[], None] = lambda: None,
    ) -> Tensor:
        """Final hidden states, normalised: [T, H], or those asked for, one group after another.

        Args:
            segments: where gradients are wanted, the one adapter that acts on all tokens;
                otherwise those that the layers' ForwardContext holds.
            asked: None is all positions, none of them constant.
            checkpointing: keep only each layer's input for backward, and compute it again.
            pause: called between halves of layers, forward and backward.
        """
        x_TH, cos_TD, sin_TD = self.inputs(token_T, position_T)
        trains = torch.is_grad_enabled()
        if trains:
            assert len(segments) == 1, "one adapter at a time is trained"
            assert (segments[0].start, segments[0].stop) == (0, len(token_T))
        step = Step(how, cos_TD, sin_TD, segments[0] if trains else None, pause)
        for layer in self.layers[:-1]:
            x_TH = _run(layer, x_TH, step, checkpointing)
        last = self.layers[-1]
        if asked is None:
            return self._normed(_run(last, x_TH, step, checkpointing))
        parts = []
        for group in asked:
            with torch.set_grad_enabled(trains and not group.is_constant):
                chosen = replace(step, asked=group)
                parts.append(self._normed(_run(last, x_TH, chosen, checkpointing)))
        return parts[0] if len(parts) == 1 else torch.cat(parts)

    def inputs(self, token_T: Tensor, position_T: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """What the first layer reads, and cos and sin of the positions' rotations [T, D]."""
        x_TH = self._embed(token_T)
        cos_1TD, sin_1TD = self._rotary(x_TH, position_T[None])
        return x_TH, cos_1TD[0], sin_1TD[0]

    def _normed(self, x_QH: Tensor) -> Tensor:
        if not torch.is_grad_enabled():
            return rms_norm(x_QH, self.norm.weight, self.norm.eps)[0]
        normed_QH = _Normed.apply(x_QH, self.norm)
        assert isinstance(normed_QH, Tensor)
        return normed_QH


def _run(layer: DecoderLayer, x_TH: Tensor, step: Step, checkpointing: bool) -> Tensor:
    if not (checkpointing and torch.is_grad_enabled()):
        return layer(x_TH, step)
    y_QH = checkpoint(layer, x_TH, step, use_reentrant=False, preserve_rng_state=False)
    assert isinstance(y_QH, Tensor)
    return y_QH


class DecoderLayer:
    """One layer."""

    def __init__(self, layer: Any) -> None:
        attention, gated = layer.self_attn, layer.mlp
        self.input_norm = Norm.of(layer.input_layernorm)
        self.output_norm = Norm.of(layer.post_attention_layernorm)
        self.query: AdapterLinear = attention.q_proj
        self.key: AdapterLinear = attention.k_proj
        self.value: AdapterLinear = attention.v_proj
        self.output: AdapterLinear = attention.o_proj
        self.gate: AdapterLinear = gated.gate_proj
        self.up: AdapterLinear = gated.up_proj
        self.down: AdapterLinear = gated.down_proj
        norms = [getattr(attention, name, None) for name in ("q_norm", "k_norm")]
        self.query_norm, self.key_norm = (None if n is None else Norm.of(n) for n in norms)
        self.head_dim: int = attention.head_dim
        # Where all layers have the one window, as in Mistral, it is not told to each of them.
        of_model = getattr(attention.config, "sliding_window", None)
        window = getattr(attention, "sliding_window", of_model)
        self.rule = AttentionRule(attention.layer_idx, attention.scaling, window)

    def __call__(self, x_TH: Tensor, step: Step) -> Tensor:
        step.pause()
        trains = torch.is_grad_enabled()
        residual_QH = step.chosen(x_TH)
        if trains:
            adapters = _tensors(step, self.query, self.key, self.value)
            heads: Any = _AttentionInputs.apply(x_TH, self, step, *adapters)
        else:
            heads = self._attention_inputs(x_TH, step)
        with self._on_asked(step):
            return self._from_heads(residual_QH, heads, step, trains)

    def _from_heads(
        self, residual_QH: Tensor, heads: tuple[Tensor, ...], step: Step, trains: bool
    ) -> Tensor:
        q_1NQD, k_1NTD, v_1NTD = (head.transpose(0, 1).unsqueeze(0) for head in heads)
        queries = None if step.asked is None else step.asked.queries
        seen_QA = attend(step.how, self.rule, q_1NQD, k_1NTD, v_1NTD, queries)[0].flatten(1)
        step.pause()
        if trains:
            adapters = _tensors(step, self.output, self.gate, self.up, self.down)
            y_QH = _GatedOutputs.apply(residual_QH, seen_QA, self, step, *adapters)
            assert isinstance(y_QH, Tensor)
            return y_QH
        h_QH = self.output(seen_QA).add_(residual_QH)
        normed_QH, _ = rms_norm(h_QH, self.output_norm.weight, self.output_norm.eps)
        inner_QF = functional.silu(self.gate(normed_QH), inplace=True).mul_(self.up(normed_QH))
        return self.down(inner_QF).add_(h_QH)

    def _attention_inputs(self, x_TH: Tensor, step: Step) -> tuple[Tensor, Tensor, Tensor]:
        normed_TH, _ = rms_norm(x_TH, self.input_norm.weight, self.input_norm.eps)
        with self._on_asked(step):
            q_QND = self.heads(self.query(step.chosen(normed_TH)))
        k_TND, v_TND = self.heads(self.key(normed_TH)), self.heads(self.value(normed_TH))
        if self.query_norm is not None:
            q_QND, _ = rms_norm(q_QND, self.query_norm.weight, self.query_norm.eps)
        if self.key_norm is not None:
            k_TND, _ = rms_norm(k_TND, self.key_norm.weight, self.key_norm.eps)
        cos_QD, sin_QD = step.chosen(step.cos_TD), step.chosen(step.sin_TD)
        return rotate(q_QND, cos_QD, sin_QD), rotate(k_TND, step.cos_TD, step.sin_TD), v_TND

    def _on_asked(self, step: Step) -> AbstractContextManager[None]:
        """Where rows are those that are asked for, so are the adapters' segments."""
        if step.asked is None:
            return nullcontext()
        return self.query.context.running(step.asked.segments, step.how)

    def heads(self, x: Tensor) -> Tensor:
        return x.unflatten(-1, (-1, self.head_dim))


class _Normed(torch.autograd.Function):
    """RMS norm that keeps its input and one number a row."""

    @staticmethod
    def forward(ctx: Any, x_QH: Tensor, norm: Norm) -> Tensor:
        y_QH, rstd_Q1 = rms_norm(x_QH, norm.weight, norm.eps)
        ctx.save_for_backward(x_QH, rstd_Q1)
        ctx.norm = norm
        return y_QH

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor | None, ...]:
        x_QH, rstd_Q1 = ctx.saved_tensors
        return rms_norm_gradient(grad_outputs[0], x_QH, rstd_Q1, ctx.norm.weight), None


class _AttentionInputs(torch.autograd.Function):
    """x -> norm -> queries, keys, values, the first two normalised (Qwen3) and rotated.

    Tensors beside x: A and B of the three projections, None where there is no adapter.
    """

    @staticmethod
    def forward(
        ctx: Any, x_TH: Tensor, layer: DecoderLayer, step: Step, *adapters: Tensor | None
    ) -> tuple[Tensor, Tensor, Tensor]:
        pairs = _pairs(adapters)
        normed_TH, rstd_T1 = rms_norm(x_TH, layer.input_norm.weight, layer.input_norm.eps)
        asked_QH = step.chosen(normed_TH)
        q_QA, hq = adapted_product(asked_QH, layer.query, pairs[0], step.scale)
        k_TA, hk = adapted_product(normed_TH, layer.key, pairs[1], step.scale)
        v_TA, hv = adapted_product(normed_TH, layer.value, pairs[2], step.scale)
        q_raw, k_raw, v_TND = layer.heads(q_QA), layer.heads(k_TA), layer.heads(v_TA)
        q_rstd = k_rstd = None
        q_QND, k_TND = q_raw, k_raw
        if layer.query_norm is not None:
            q_QND, q_rstd = rms_norm(q_raw, layer.query_norm.weight, layer.query_norm.eps)
        if layer.key_norm is not None:
            k_TND, k_rstd = rms_norm(k_raw, layer.key_norm.weight, layer.key_norm.eps)
        q_QND = rotate(q_QND, step.chosen(step.cos_TD), step.chosen(step.sin_TD))
        k_TND = rotate(k_TND, step.cos_TD, step.sin_TD)
        ctx.save_for_backward(
            x_TH,
            rstd_T1,
            None if q_rstd is None else q_raw,
            q_rstd,
            None if k_rstd is None else k_raw,
            k_rstd,
            *(hq, hk, hv),
            *adapters,
        )
        ctx.layer, ctx.step = layer, step
        return q_QND, k_TND, v_TND

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor | None, ...]:
        layer: DecoderLayer = ctx.layer
        step: Step = ctx.step
        step.pause()
        x_TH, rstd_T1, q_raw, q_rstd, k_raw, k_rstd, hq, hk, hv, *adapters = ctx.saved_tensors
        pairs = _pairs(adapters)
        gq_QND, gk_TND, gv_TND = grad_outputs
        gq_QND = rotate_gradient(gq_QND, step.chosen(step.cos_TD), step.chosen(step.sin_TD))
        gk_TND = rotate_gradient(gk_TND, step.cos_TD, step.sin_TD)
        if layer.query_norm is not None:
            gq_QND = rms_norm_gradient(gq_QND, q_raw, q_rstd, layer.query_norm.weight)
        if layer.key_norm is not None:
            gk_TND = rms_norm_gradient(gk_TND, k_raw, k_rstd, layer.key_norm.weight)
        normed_TH = normalised(x_TH, rstd_T1, layer.input_norm.weight)
        wants_x: bool = ctx.needs_input_grad[0]
        g_TH, *gk = product_gradients(
            gk_TND.flatten(1), normed_TH, layer.key, pairs[1], hk, step.scale, wants_x=wants_x
        )
        g_TH, *gv = product_gradients(
            gv_TND.flatten(1), normed_TH, layer.value, pairs[2], hv, step.scale, g_TH, wants_x
        )
        g_QH, *gq = product_gradients(
            gq_QND.flatten(1),
            step.chosen(normed_TH),
            layer.query,
            pairs[0],
            hq,
            step.scale,
            g_TH if step.asked is None else None,
            wants_x,
        )
        grad_x_TH = None
        if wants_x:
            assert g_TH is not None and g_QH is not None
            if step.asked is not None:
                g_TH.index_add_(0, step.asked.rows_Q, g_QH)
            grad_x_TH = rms_norm_gradient(g_TH, x_TH, rstd_T1, layer.input_norm.weight)
        return grad_x_TH, None, None, *gq, *gk, *gv


class _GatedOutputs(torch.autograd.Function):
    """What was attended to -> output projection -> residual -> norm -> gated layer -> residual.

    Tensors beside the two: A and B of the four projections, None where there is no adapter.
    """

    @staticmethod
    def forward(
        ctx: Any,
        residual_QH: Tensor,
        seen_QA: Tensor,
        layer: DecoderLayer,
        step: Step,
        *adapters: Tensor | None,
    ) -> Tensor:
        pairs = _pairs(adapters)
        h_QH, ho = adapted_product(seen_QA, layer.output, pairs[0], step.scale)
        h_QH.add_(residual_QH)
        normed_QH, rstd_Q1 = rms_norm(h_QH, layer.output_norm.weight, layer.output_norm.eps)
        gate_QF, hg = adapted_product(normed_QH, layer.gate, pairs[1], step.scale)
        up_QF, hu = adapted_product(normed_QH, layer.up, pairs[2], step.scale)
        inner_QF = functional.silu(gate_QF).mul_(up_QF)
        y_QH, hd = adapted_product(inner_QF, layer.down, pairs[3], step.scale)
        y_QH.add_(h_QH)
        ctx.save_for_backward(seen_QA, h_QH, rstd_Q1, gate_QF, up_QF, *(ho, hg, hu, hd), *adapters)
        ctx.layer, ctx.step = layer, step
        return y_QH

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor | None, ...]:
        layer: DecoderLayer = ctx.layer
        scale: float = ctx.step.scale
        ctx.step.pause()
        seen_QA, h_QH, rstd_Q1, gate_QF, up_QF, ho, hg, hu, hd, *adapters = ctx.saved_tensors
        pairs = _pairs(adapters)
        (grad_QH,) = grad_outputs
        silu_QF = functional.silu(gate_QF)
        g_QF, *gd = product_gradients(grad_QH, silu_QF * up_QF, layer.down, pairs[3], hd, scale)
        assert g_QF is not None
        g_up_QF = silu_QF.mul_(g_QF)
        g_gate_QF = torch.ops.aten.silu_backward(g_QF.mul_(up_QF), gate_QF)
        normed_QH = normalised(h_QH, rstd_Q1, layer.output_norm.weight)
        g_QH, *gg = product_gradients(g_gate_QF, normed_QH, layer.gate, pairs[1], hg, scale)
        g_QH, *gu = product_gradients(g_up_QF, normed_QH, layer.up, pairs[2], hu, scale, g_QH)
        assert g_QH is not None
        g_h_QH = rms_norm_gradient(g_QH, h_QH, rstd_Q1, layer.output_norm.weight).add_(grad_QH)
        g_seen_QA, *go = product_gradients(
            g_h_QH, seen_QA, layer.output, pairs[0], ho, scale, wants_x=ctx.needs_input_grad[1]
        )
        residual = g_h_QH if ctx.needs_input_grad[0] else None
        return residual, g_seen_QA, None, None, *go, *gg, *gu, *gd


def _tensors(step: Step, *linears: AdapterLinear) -> list[Tensor | None]:
    tensors: list[Tensor | None] = []
    for linear in linears:
        tensors.extend(step.pair_of(linear) or (None, None))
    return tensors


def _pairs(adapters: Sequence[Tensor | None]) -> list[Pair | None]:
    """The inverse of _tensors."""
    return [
        None if a is None or b is None else (a, b)
        for a, b in zip(adapters[::2], adapters[1::2], strict=True)
    ]
