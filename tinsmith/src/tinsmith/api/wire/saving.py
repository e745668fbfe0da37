"""Saves and loads <-> what the service is asked for."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from tinsmith.api.wire.fields import Fields, is_storable
from tinsmith.api.wire.training import check_optimizer
from tinsmith.domain.errors import InvalidInputError

SNAPSHOT, INFLIGHT = "snapshot", "inflight"


@dataclass(frozen=True, slots=True)
class Save:
    name: str
    ttl_s: int | None = None
    overwrite: bool = False
    user_metadata: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class SaveExternal:
    name: str
    ttl_s: int | None = None
    age_recipients: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class SaveUnnamed:
    """Weights that are known only by the sampler that is made of them."""

    sampling_session_seq_id: int
    ttl_s: int | None = None
    is_inflight: bool = False
    """The sampler goes over to the weights of the run's later inflight saves."""


@dataclass(frozen=True, slots=True)
class NewRunFromState:
    session_id: str
    model_seq_id: int
    path: str
    with_optimizer: bool
    base_model: str | None
    user_metadata: Mapping[str, str] = field(default_factory=dict)


def read_save(fields: Fields) -> Save:
    if fields.has("age_encryption_recipients"):
        raise InvalidInputError(
            "age_encryption_recipients is only supported by save_weights_external; leave it out"
        )
    return Save(
        name=fields.text("path"),
        ttl_s=fields.integer_or("ttl_seconds", None, low=-(2**63)),
        overwrite=fields.flag_or("overwrite", False),
        user_metadata=fields.metadata("user_metadata"),
    )


def read_save_external(fields: Fields) -> SaveExternal:
    return SaveExternal(
        name=fields.text("path"),
        ttl_s=fields.integer_or("ttl_seconds", None, low=-(2**63)),
        age_recipients=_read_recipients(fields),
    )


def _read_recipients(fields: Fields) -> tuple[str, ...]:
    """An empty list is refused: who speaks of encryption must not get plain files."""
    key = "age_encryption_recipients"
    if not fields.has(key):
        return ()
    recipients = fields.items_or(key, [])
    if not recipients or not all(isinstance(one, str) and is_storable(one) for one in recipients):
        raise fields.refuse(key, "a list of at least one public key, or absent")
    return tuple(recipients)


def read_save_for_sampler(fields: Fields) -> Save | SaveUnnamed:
    kind = fields.text_or("kind", SNAPSHOT)
    if kind not in (SNAPSHOT, INFLIGHT):
        raise fields.refuse("kind", f"{SNAPSHOT} or {INFLIGHT}")
    if fields.has("path"):
        if kind == INFLIGHT:
            raise InvalidInputError(
                f"an {INFLIGHT} save has no name, as later ones take its place; leave out path, or "
                f"save a {SNAPSHOT}"
            )
        return read_save(fields)
    return SaveUnnamed(
        sampling_session_seq_id=fields.integer("sampling_session_seq_id"),
        ttl_s=fields.integer_or("ttl_seconds", None, low=-(2**63)),
        is_inflight=kind == INFLIGHT,
    )


def makes_a_run(fields: Fields) -> bool:
    """Whether a load creates a run, addressed by its session, or names an existing one."""
    return fields.has("session_id")


def read_load_as_new_run(fields: Fields) -> NewRunFromState:
    check_optimizer(fields)
    if fields.has("weights_access_token"):
        raise InvalidInputError(
            "weights_access_token is not supported by this server; load checkpoints of your own, "
            "or published ones"
        )
    return NewRunFromState(
        session_id=fields.text("session_id"),
        model_seq_id=fields.integer("model_seq_id"),
        path=fields.text("path"),
        with_optimizer=fields.flag_or("optimizer", False),
        base_model=fields.text_or("base_model", None),
        user_metadata=fields.metadata("user_metadata"),
    )
