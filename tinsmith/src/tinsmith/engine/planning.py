"""What an engine gives itself where nothing is set, from the model's size and from free memory."""

from __future__ import annotations

from tinsmith.config import Engine as EngineSettings
from tinsmith.engine.activation_memory import room_on
from tinsmith.engine.base_model import BaseModel
from tinsmith.engine.free_memory import free_bytes
from tinsmith.engine.residency import SHARE_OF_FREE
from tinsmith.engine.sample_request import DecodeText
from tinsmith.engine.sampler import Sampler
from tinsmith.engine.target_modules import Part
from tinsmith.engine.trainer import TrainingSettings
from tinsmith.scheduler.fair_share import Weights
from tinsmith.telemetry import event

MAX_CACHE_BYTES = 4 * 2**30
GPU_PREFILL_TOKENS = 8192
CPU_PREFILL_OPERATIONS = 15 * 10**10


def planned_training(base: BaseModel, settings: EngineSettings) -> TrainingSettings:
    """As set, and as memory allows where nothing is set: call it with the base model loaded."""
    memory, device = base.activation_memory, base.device
    # What runs may take, they will.
    room = room_on(device) * (SHARE_OF_FREE - 1) // SHARE_OF_FREE
    budget = settings.micro_batch_tokens or memory.token_budget(device, room)
    event("micro_batches", token_budget=budget, bytes_per_token=memory.kept_per_token)
    return TrainingSettings(
        token_budget=budget,
        activation_bytes=settings.activation_bytes or None,
        zero_weight_logprobs=settings.zero_weight_logprobs,
    )


def planned_sampler(
    base: BaseModel,
    settings: EngineSettings,
    decode_text: DecodeText | None,
    weights: Weights,
) -> Sampler:
    """As set, and as the model's size and memory allow where nothing is set: call it with the base
    model loaded."""
    cache_bytes = settings.kv_cache_bytes or min(MAX_CACHE_BYTES, free_bytes(base.device) // 8)
    prefill_tokens = settings.prefill_tokens or _prefill_tokens(base)
    event("sampling", prefill_tokens=prefill_tokens, kv_cache_bytes=cache_bytes)
    return Sampler(
        base,
        decode_text=decode_text,
        prefill_tokens=prefill_tokens,
        max_active_sequences=settings.max_active_sequences,
        max_cache_bytes=cache_bytes,
        weights=weights,
    )


def _prefill_tokens(base: BaseModel) -> int:
    """A power of two: on a CPU what takes about half a second, since longer passes do not run at a
    higher rate; on a GPU what keeps it busy."""
    if base.device.type != "cpu":
        return GPU_PREFILL_TOKENS
    num_parameters = sum(
        target.num_inputs * target.num_outputs * target.num_experts
        for target in base.targets
        if target.part is not Part.UNEMBED
    )
    wanted = CPU_PREFILL_OPERATIONS // (2 * num_parameters)
    return min(4096, max(128, 1 << (wanted.bit_length() - 1)))
