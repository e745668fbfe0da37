"""Runs, checkpoints, samplers, sessions and models as the SDK's lists show them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from typing import Any

from tinsmith.domain.addresses import CheckpointKind
from tinsmith.domain.records import Checkpoint, Run, Sampler, ServedModel, Session, StorageUse

CHECKPOINT_TYPES = {
    CheckpointKind.TRAINING: "training",
    CheckpointKind.SAMPLER: "sampler",
    CheckpointKind.EXTERNAL: "external",
}


def write_run(
    run: Run, *, last_checkpoint: Checkpoint | None, last_sampler_checkpoint: Checkpoint | None
) -> dict[str, Any]:
    answer: dict[str, Any] = {
        "training_run_id": run.run_id,
        "base_model": run.base_model,
        "model_owner": run.owner,
        "is_lora": True,
        "lora_rank": run.lora.rank,
        "corrupted": run.is_corrupted,
        "last_request_time": _write_time(run.last_request_at),
        "user_metadata": dict(run.user_metadata) or None,
    }
    if last_checkpoint is not None:
        answer["last_checkpoint"] = write_checkpoint(last_checkpoint)
    if last_sampler_checkpoint is not None:
        answer["last_sampler_checkpoint"] = write_checkpoint(last_sampler_checkpoint)
    return answer


def write_checkpoint(checkpoint: Checkpoint) -> dict[str, Any]:
    address = checkpoint.address
    expires_at = checkpoint.expires_at
    return {
        "checkpoint_id": f"{address.kind.value}/{address.name}",
        "checkpoint_type": CHECKPOINT_TYPES[address.kind],
        "time": _write_time(checkpoint.created_at),
        "tinker_path": str(address),
        "size_bytes": checkpoint.size_bytes,
        "public": checkpoint.is_public,
        "user_metadata": dict(checkpoint.user_metadata) or None,
        "expires_at": None if expires_at is None else _write_time(expires_at),
    }


def write_cursor(*, offset: int, limit: int, total: int) -> dict[str, int]:
    return {"offset": offset, "limit": limit, "total_count": total}


def write_info(run: Run) -> dict[str, Any]:
    """The answer to get_info. Tokenizers are found by `model_name`, so it is always there."""
    return {
        "type": "get_info",
        "model_id": run.run_id,
        "model_name": run.base_model,
        "model_data": {"model_name": run.base_model},
        "is_lora": True,
        "lora_rank": run.lora.rank,
        "optimizer_config": {"type": "adamw"},
    }


def write_weights_info(checkpoint: Checkpoint) -> dict[str, Any]:
    lora = checkpoint.lora
    return {
        "base_model": checkpoint.base_model,
        "is_lora": True,
        "lora_rank": lora.rank,
        "train_attn": lora.train_attn,
        "train_mlp": lora.train_mlp,
        "train_unembed": lora.train_unembed,
        "optimizer_config": {"type": "adamw"},
    }


def write_sampler(sampler: Sampler) -> dict[str, Any]:
    return {
        "sampler_id": sampler.sampler_id,
        "base_model": sampler.base_model,
        "model_path": None if sampler.checkpoint is None else str(sampler.checkpoint),
    }


def write_session(
    session: Session, *, run_ids: Sequence[str], sampler_ids: Sequence[str]
) -> dict[str, Any]:
    return {
        "training_run_ids": list(run_ids),
        "sampler_ids": list(sampler_ids),
        "user_metadata": dict(session.user_metadata) or None,
        "display_name": session.display_name,
    }


def write_capabilities(models: Iterable[ServedModel]) -> dict[str, Any]:
    return {
        "supported_models": [
            {
                "model_name": model.name,
                "max_context_length": model.max_context,
                "trainable": True,
                "sampleable": True,
            }
            for model in models
        ]
    }


def write_storage_use(uses: Iterable[StorageUse], owner: str) -> dict[str, Any]:
    """Nothing costs anything here, so no rate and no cost is told."""
    return {
        "data": [
            {
                "project_id": use.project_id,
                "user_name": owner,
                "user_email": owner,
                "checkpoint_count": use.num_checkpoints,
                "size_bytes": use.size_bytes,
                "size_gigabytes": use.size_bytes / 1e9,
            }
            for use in uses
        ]
    }


def write_download_urls(urls: Mapping[str, str], expires_at: datetime) -> dict[str, Any]:
    return {"urls": dict(urls), "expires": _write_time(expires_at)}


def _write_time(time: datetime) -> str:
    return time.isoformat()
