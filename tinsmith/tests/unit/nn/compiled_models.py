"""Small models with random weights, for the tests of compiled decoding."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from tinsmith.nn.compiled.decoder import BLOCK_TOKENS, CompiledDecoder
from tinsmith.nn.context import ForwardContext, Segment
from tinsmith.nn.decoder import Decoder
from tinsmith.nn.lora import AdapterLinear, init_pair
from torch import Tensor, nn
from transformers import AutoConfig, AutoModelForCausalLM

VOCAB = 99


@dataclass
class Model:
    """transformers' own, in fp32, and ours over the same weights."""

    reference: Any
    embed: nn.Module
    rotary: nn.Module
    decoder: Decoder
    head: AdapterLinear
    linears: list[AdapterLinear]

    def compiled(self) -> CompiledDecoder:
        return CompiledDecoder(self.decoder, self.head)


def make_model(kind: str, dtype: torch.dtype = torch.float32, **sizes: Any) -> Model:
    """`sizes` are a configuration's; whatever is not given is small."""
    settings = {
        "vocab_size": VOCAB,
        "hidden_size": 48,
        "intermediate_size": 75,
        "num_hidden_layers": 2,
        "num_attention_heads": 6,
        "num_key_value_heads": 2,
        "head_dim": 20,
        "max_position_embeddings": 256,
        **sizes,
    }
    if kind == "qwen2":  # its head dimension follows from the others
        settings |= {"hidden_size": settings["num_attention_heads"] * settings.pop("head_dim")}
    config = AutoConfig.for_model(kind, **settings)
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(config, dtype=dtype, attn_implementation="eager")
    model.eval().requires_grad_(False)
    for name, parameter in model.named_parameters():
        if "norm" in name:
            parameter.add_(torch.rand_like(parameter) - 0.5)
        elif name.endswith("bias"):
            parameter.copy_(torch.randn_like(parameter))
        else:
            parameter.mul_(4)
    reference = AutoModelForCausalLM.from_config(
        config, dtype=torch.float32, attn_implementation="eager"
    )
    reference.load_state_dict({name: value.float() for name, value in model.state_dict().items()})
    reference.eval().requires_grad_(False)
    context, linears = ForwardContext(), []
    for name, module in list(model.named_modules()):
        if isinstance(module, nn.Linear):
            linears.append(AdapterLinear(module, len(linears), context))
            model.set_submodule(name, linears[-1])
    body = model.model
    return Model(
        reference, body.embed_tokens, body.rotary_emb, Decoder(body), model.lm_head, linears
    )


def make_segment(model: Model, rank: int, start: int, stop: int, *, every: int = 1) -> Segment:
    """An adapter of random A and B on every `every`-th linear layer."""
    g = torch.Generator().manual_seed(rank)
    pairs: list[tuple[Tensor, Tensor] | None] = []
    for linear in model.linears:
        a_RI, b_OR = init_pair(rank, linear.in_features, linear.out_features, g)
        b_OR.normal_(generator=g)
        pairs.append((a_RI, b_OR) if linear.index % every == 0 else None)
    return Segment(pairs, 0.5, start, stop)


class Run:
    """Sequences being decoded, a token at a time, in blocks full of NaN where nothing is held."""

    def __init__(self, model: Model, num_rows: int, longest: int) -> None:
        self.model, self.decoder = model, model.compiled()
        layer = model.decoder.layers[0]
        each = -(-longest // BLOCK_TOKENS)
        shape = (
            num_rows * each,
            layer.key.out_features // layer.head_dim,
            BLOCK_TOKENS,
            layer.head_dim,
        )
        self.caches = [
            (torch.full(shape, torch.nan), torch.full(shape, torch.nan))
            for _ in model.decoder.layers
        ]
        g = torch.Generator().manual_seed(1)
        order = torch.randperm(num_rows * each, generator=g)
        self.tables = order.view(num_rows, each).int()

    def step(
        self,
        tokens: Tensor,
        positions: Tensor,
        segments: Sequence[Segment] = (),
        rows: slice = slice(None),
    ) -> Tensor:
        """Hidden states after one more token for each of these rows."""
        x = self.model.embed(tokens).float()
        cos, sin = self.model.rotary(x, positions[None])
        return self.decoder.step(
            x, cos[0], sin[0], segments, self.caches, self.tables[rows], positions
        )

    def all(self, tokens_BL: Tensor, segments: Sequence[Segment] = ()) -> Tensor:
        """Hidden states of whole sequences of one length, [B, L, H]."""
        return torch.stack(
            [
                self.step(tokens, torch.full((len(tokens),), position), segments)
                for position, tokens in enumerate(tokens_BL.T)
            ],
            dim=1,
        )


@contextmanager
def torch_threads(count: int) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)
