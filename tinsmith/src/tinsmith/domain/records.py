"""What the catalogue knows of sessions, runs, samplers and checkpoints."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from tinsmith.domain.addresses import CheckpointAddress
from tinsmith.domain.model_limits import ModelLimits
from tinsmith.domain.ops import LoraConfig
from tinsmith.domain.projects import Role


@dataclass(frozen=True, slots=True)
class Caller:
    """Who asks, and for which project."""

    owner: str
    """The project: it owns what is created, and nobody else sees it."""
    role: Role = Role.OWNER
    key_id: str | None = None
    """Of the API key; None for the local user of a server without keys."""


@dataclass(frozen=True, slots=True)
class ServedModel:
    """A base model as the front sees it: no tensors."""

    name: str
    directory: str
    """Weights and tokenizer in Hugging Face layout."""
    vocab_size: int
    max_context: int
    """Longest sequence in tokens, prompt and answer together."""

    @property
    def limits(self) -> ModelLimits:
        return ModelLimits(self.vocab_size, self.max_context)


@dataclass(frozen=True, slots=True)
class Session:
    session_id: str
    owner: str
    created_at: datetime
    last_heard_at: datetime
    ended_at: datetime | None
    user_metadata: Mapping[str, str] = field(default_factory=dict)
    display_name: str | None = None
    tags: tuple[str, ...] = ()
    project_id: str | None = None
    """A label that its owner chose; projects are not declared anywhere."""
    end_reason: str | None = None
    """What the client said (success, errored, interrupted), `silent` if it said nothing more, or
    how a session without a client came to be (copied, imported, forked)."""


@dataclass(frozen=True, slots=True)
class Run:
    run_id: str
    session_id: str
    owner: str
    base_model: str
    lora: LoraConfig
    created_at: datetime
    last_request_at: datetime
    user_metadata: Mapping[str, str] = field(default_factory=dict)
    is_corrupted: bool = False
    is_ended: bool = False
    inexact: str | None = None
    """Why a replay gave other bits than the first time; None: it never did."""


@dataclass(frozen=True, slots=True)
class Sampler:
    sampler_id: str
    session_id: str
    owner: str
    base_model: str
    checkpoint: CheckpointAddress | None
    """None: the base model itself."""


@dataclass(frozen=True, slots=True)
class StorageUse:
    """What an owner's checkpoints of one project take."""

    project_id: str | None
    num_checkpoints: int
    """The unnamed ones behind samplers too."""
    size_bytes: int


@dataclass(frozen=True, slots=True)
class Checkpoint:
    address: CheckpointAddress
    owner: str
    base_model: str
    lora: LoraConfig
    created_at: datetime
    size_bytes: int
    digest: str
    """SHA-256 of the manifest."""
    expires_at: datetime | None = None
    is_public: bool = False
    is_listed: bool = True
    """False for the unnamed saves behind a sampling client."""
    user_metadata: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Snapshot:
    """A run's whole state on disk, as it was after one of its ops: where recovery starts."""

    run_id: str
    seq_id: int
    """The op after which it was taken."""
    num_steps: int
    """Optimizer steps in it."""
    created_at: datetime
    size_bytes: int
    file: str
    """Its path below the home's snapshots."""
    digest: str
    """SHA-256 of the file."""
    notes: Mapping[str, Any]
    """What the state holds besides its vectors; JSON."""
