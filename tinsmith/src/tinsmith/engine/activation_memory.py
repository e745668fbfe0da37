"""What a training pass takes in memory beside weights and states, measured once for each model.

From it follow the tokens that go through the model at once, when activations are computed again
instead of kept, and which sequence is refused because it cannot fit.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from tinsmith.engine.free_memory import free_bytes
from tinsmith.engine.target_modules import TargetModule
from tinsmith.nn.context import Pair, Prefill, Segment
from tinsmith.nn.logprobs import CHUNK_ELEMENTS
from tinsmith.nn.sequences import PackedSequences

if TYPE_CHECKING:
    from tinsmith.engine.base_model import BaseModel

LEAST_BUDGET, CPU_BUDGET, GPU_BUDGET = 1024, 4096, 16_384
"""Tokens. A CPU multiplies no faster beyond a thousand; a GPU goes on gaining longer."""
ALWAYS_THERE = 64 * 2**20
"""Bytes that a pass may take without asking what is free."""
_USABLE = 0.9
"""Of free memory: an estimate is not a promise."""

_PROBE_TOKENS = 16
_PROBE_RANK = 32


@dataclass(frozen=True, slots=True)
class Demand:
    """One micro-batch as far as memory is concerned."""

    num_tokens: int
    """Packed, shared ones once."""
    longest: int
    num_scored: int
    """Rows that the output layer sees."""
    num_mask_cells: int = 0
    """Of the masks of spans that have ancestors."""

    @classmethod
    def of(cls, pack: PackedSequences, num_scored: int) -> Demand:
        cells = sum(s.length * (s.position + s.length) for s in pack.spans if s.ancestors)
        longest = max(span.position + span.length for span in pack.spans)
        return cls(pack.num_tokens, longest, num_scored, cells)


@dataclass(frozen=True, slots=True)
class ActivationMemory:
    """Bytes of a pass, for one base model."""

    kept_per_token: int
    """What a token keeps for backward in all layers."""
    recomputed_per_token: int
    """The same under activation checkpointing: every layer's input, and one layer's all."""
    working_per_token: int
    """What one layer's backward takes meanwhile, and all that a forward-only pass takes."""
    per_pair: int
    """For each pair of a query and a key of the longest sequence, where a layer's attention needs
    the scores themselves (softcap, window); else 0."""
    per_scored: int
    """For each row of the output layer's chunk."""
    chunk_rows: int
    """The most rows that the output layer sees at once."""
    mask_cell: int

    @classmethod
    def measured(cls, base: BaseModel) -> ActivationMemory:
        """By one small forward pass with an adapter on every layer, counting what it keeps."""
        kept = _kept_bytes(base) // _PROBE_TOKENS
        one_layer = -(-kept // base.num_layers)
        itemsize = base.dtype.itemsize
        return cls(
            kept_per_token=kept,
            recomputed_per_token=base.num_layers * base.hidden_size * itemsize + one_layer,
            working_per_token=one_layer,
            per_pair=_score_bytes(base),
            per_scored=base.vocab_size * (4 if itemsize == 4 else 4 + 2 * itemsize),
            chunk_rows=max(1, CHUNK_ELEMENTS // base.vocab_size),
            mask_cell=itemsize,
        )

    def bytes_for(self, demand: Demand, *, trains: bool, checkpointing: bool) -> int:
        per_token = self.working_per_token
        if trains:
            per_token += self.recomputed_per_token if checkpointing else self.kept_per_token
        return (
            per_token * demand.num_tokens
            + self.per_pair * demand.longest**2
            + self.mask_cell * demand.num_mask_cells
            + self.per_scored * min(demand.num_scored, self.chunk_rows)
        )

    def token_budget(self, device: torch.device, room: int) -> int:
        """Tokens of a micro-batch: as many as pay on the device, if half of `room` bytes holds
        what they keep. A power of two, so that a restart with nearly the same memory packs the
        same way."""
        budget = CPU_BUDGET if device.type == "cpu" else GPU_BUDGET
        while budget > LEAST_BUDGET and self._kept(budget) > room // 2:
            budget //= 2
        return budget

    def _kept(self, num_tokens: int) -> int:
        return self.bytes_for(
            Demand(num_tokens, num_tokens, num_tokens), trains=True, checkpointing=False
        )

    def must_recompute(self, demand: Demand, room: int, *, trains: bool) -> bool:
        """Whether the pass needs activation checkpointing to fit into `room` bytes.

        Raises:
            MemoryError: it does not fit in any way; says what it needs and what there is.
        """
        if self.bytes_for(demand, trains=trains, checkpointing=False) <= room:
            return False
        least = self.bytes_for(demand, trains=trains, checkpointing=True)
        if least > room:
            raise MemoryError(
                f"{demand.num_tokens} tokens at once (the longest sequence has {demand.longest}) "
                f"need about {_gigabytes(least)} for activations, and there is room for "
                f"{_gigabytes(room)}; at most about {self._most_tokens(room, trains)} tokens would "
                "fit. Shorten the sequence, or give the engine more memory"
            )
        return True

    def _most_tokens(self, room: int, trains: bool) -> int:
        low, high = 0, 2**24
        while low < high:
            middle = (low + high + 1) // 2
            need = self.bytes_for(Demand(middle, middle, middle), trains=trains, checkpointing=True)
            low, high = (middle, high) if need <= room else (low, middle - 1)
        return low


def room_on(device: torch.device) -> int:
    """Bytes that activations may take now."""
    return max(ALWAYS_THERE, int(free_bytes(device) * _USABLE))


def _gigabytes(num_bytes: int) -> str:
    return f"{num_bytes / 1e9:.3g} GB"


def _kept_bytes(base: BaseModel) -> int:
    tokens = torch.arange(_PROBE_TOKENS, device=base.device) % base.vocab_size
    pack = PackedSequences([_PROBE_TOKENS], base.device)
    pairs = [_probe_pair(base, t) for t in base.targets]
    given = {p.untyped_storage().data_ptr() for p in base.model.parameters()}
    given |= {b.untyped_storage().data_ptr() for b in base.model.buffers()}
    given |= {t.untyped_storage().data_ptr() for pair in pairs for t in pair}
    kept: dict[int, Tensor] = {}  # the tensors stay alive, so that no address comes twice

    def keep(tensor: Tensor) -> Tensor:
        address = tensor.untyped_storage().data_ptr()
        if address not in given:
            kept[address] = tensor
        return tensor

    with torch.enable_grad(), torch.autograd.graph.saved_tensors_hooks(keep, lambda t: t):
        hidden = base.hidden(
            tokens, pack.position_ids[0], [_segment(pairs, _PROBE_TOKENS)], Prefill(pack)
        )
    del hidden
    return sum(tensor.untyped_storage().nbytes() for tensor in kept.values())


def _probe_pair(base: BaseModel, target: TargetModule) -> Pair:
    def leaf(*shape: int) -> Tensor:
        return torch.zeros(shape, device=base.device, requires_grad=True)

    rows = _PROBE_RANK * target.num_experts
    return leaf(rows, target.num_inputs), leaf(target.num_outputs, rows)


def _segment(pairs: Sequence[Pair], num_tokens: int) -> Segment:
    return Segment(pairs, 1.0, 0, num_tokens)


def _score_bytes(base: BaseModel) -> int:
    config = base.model.config.get_text_config(decoder=True)
    heads = config.num_attention_heads
    if getattr(config, "attn_logit_softcapping", None) is not None:
        return 5 * 4 * heads  # scores, capped, masked, softmax and one gradient, fp32
    if getattr(config, "sliding_window", None) is not None:
        return 1 + base.dtype.itemsize
    return 0
