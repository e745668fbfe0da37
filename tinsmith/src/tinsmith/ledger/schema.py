"""The tables, as they are at SCHEMA_VERSION. Older ledgers are brought here by `migrations`.

Statements and types keep to what SQLite and PostgreSQL share.
"""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import Any

from sqlalchemy import (
    JSON,
    BigInteger,
    Boolean,
    Column,
    DateTime,
    Dialect,
    Float,
    ForeignKey,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    Table,
    Text,
    TypeDecorator,
    UniqueConstraint,
    literal_column,
)

RELEASE_SEQ_ID = 2**31
"""The place of a run's Release: just above int32, which is what clients number with."""


class UtcDateTime(TypeDecorator[datetime]):
    """Aware times in, aware UTC times out; the database sees UTC."""

    impl = DateTime
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        if value is None:
            return None
        if value.tzinfo is None:
            raise ValueError(f"a time without zone: {value!r}")
        return value.astimezone(UTC).replace(tzinfo=None)

    def process_result_value(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        return None if value is None else value.replace(tzinfo=UTC)


class JsonText(TypeDecorator[Any]):
    """JSON that may hold NaN and infinities, as metrics do; PostgreSQL's own type refuses them."""

    impl = Text
    cache_ok = True

    def process_bind_param(self, value: Any, dialect: Dialect) -> str | None:
        return None if value is None else json.dumps(value)

    def process_result_value(self, value: str | None, dialect: Dialect) -> Any:
        return None if value is None else json.loads(value)


METADATA = MetaData()

# One row: what the tables below look like.
schema_version = Table(
    "schema_version",
    METADATA,
    Column("only_row", Integer, primary_key=True),
    Column("version", Integer, nullable=False),
)

sessions = Table(
    "sessions",
    METADATA,
    Column("session_id", Text, primary_key=True),
    Column("owner", Text, nullable=False),
    Column("idempotency_key", Text),
    Column("created_at", UtcDateTime, nullable=False),
    Column("last_heard_at", UtcDateTime, nullable=False),
    Column("ended_at", UtcDateTime),
    Column("end_reason", Text),
    Column("display_name", Text),
    Column("tags", JSON, nullable=False),
    Column("user_metadata", JSON, nullable=False),
    Column("project_id", Text),
    UniqueConstraint("owner", "idempotency_key"),
    Index("sessions_by_owner", "owner", "created_at"),
)

runs = Table(
    "runs",
    METADATA,
    Column("run_id", Text, primary_key=True),
    Column("session_id", Text, ForeignKey("sessions.session_id"), nullable=False, index=True),
    Column("owner", Text, nullable=False),
    Column("base_model", Text, nullable=False),
    Column("rank", Integer, nullable=False),
    Column("seed", BigInteger, nullable=False),
    Column("train_attn", Boolean, nullable=False),
    Column("train_mlp", Boolean, nullable=False),
    Column("train_unembed", Boolean, nullable=False),
    Column("created_at", UtcDateTime, nullable=False),
    Column("last_request_at", UtcDateTime, nullable=False),
    Column("last_seq_id", BigInteger, nullable=False),
    Column("is_corrupted", Boolean, nullable=False),
    Column("is_ended", Boolean, nullable=False),
    Column("user_metadata", JSON, nullable=False),
    # Why a replay of the run gave other bits than the first time; NULL: it never did.
    Column("inexact", Text),
    Index("runs_by_owner", "owner", "last_request_at"),
)

samplers = Table(
    "samplers",
    METADATA,
    Column("sampler_id", Text, primary_key=True),
    Column("session_id", Text, ForeignKey("sessions.session_id"), nullable=False, index=True),
    Column("owner", Text, nullable=False),
    Column("base_model", Text, nullable=False),
    Column("checkpoint", Text),
    Column("created_at", UtcDateTime, nullable=False),
)

# One row is at once the request, its place in the queue, the recovery record and the future.
ops = Table(
    "ops",
    METADATA,
    Column("row", BigInteger().with_variant(Integer, "sqlite"), primary_key=True),
    Column("scope", Text, nullable=False),
    Column("seq_id", BigInteger, nullable=False),
    Column("owner", Text, nullable=False),
    Column("base_model", Text, nullable=False),
    Column("kind", Text, nullable=False),
    Column("digest", LargeBinary, nullable=False),
    Column("appended_at", UtcDateTime, nullable=False),
    Column("settled_at", UtcDateTime),
    Column("is_failed", Boolean),
    # How the engine executed it and what is to be compared when it is replayed: see `entries`.
    Column("execution", JsonText),
    # The big ones last: a row's small columns are then read without them.
    Column("payload", LargeBinary),
    Column("outcome", LargeBinary),
    UniqueConstraint("scope", "seq_id"),
    sqlite_autoincrement=True,  # row numbers only grow, also after deletes
)
_WAITING = ops.c.settled_at.is_(None)
Index("ops_waiting", ops.c.base_model, ops.c.row, sqlite_where=_WAITING, postgresql_where=_WAITING)
Index("ops_waiting_by_owner", ops.c.owner, sqlite_where=_WAITING, postgresql_where=_WAITING)
# What a sweep may find something in.
_HAS_RESULT = (ops.c.kind == "sample") & ops.c.outcome.is_not(None)
Index("ops_samples", ops.c.settled_at, sqlite_where=_HAS_RESULT, postgresql_where=_HAS_RESULT)
HAS_TRAINING_RESULT = (
    ops.c.kind.in_([literal_column("'forward'"), literal_column("'forward_backward'")])
    & ops.c.outcome.is_not(None)
    & ops.c.is_failed.is_(False)
)
"""Written out, as an index with a condition serves only those who state it alike."""
Index(
    "ops_training_results",
    ops.c.settled_at,
    sqlite_where=HAS_TRAINING_RESULT,
    postgresql_where=HAS_TRAINING_RESULT,
)
_HAS_PAYLOAD = ops.c.payload.is_not(None)
Index("ops_payloads", ops.c.scope, sqlite_where=_HAS_PAYLOAD, postgresql_where=_HAS_PAYLOAD)

checkpoints = Table(
    "checkpoints",
    METADATA,
    Column("address", Text, primary_key=True),
    Column("run_id", Text, nullable=False, index=True),
    Column("kind", Text, nullable=False),
    Column("owner", Text, nullable=False),
    Column("base_model", Text, nullable=False),
    Column("rank", Integer, nullable=False),
    Column("seed", BigInteger, nullable=False),
    Column("train_attn", Boolean, nullable=False),
    Column("train_mlp", Boolean, nullable=False),
    Column("train_unembed", Boolean, nullable=False),
    Column("created_at", UtcDateTime, nullable=False),
    Column("expires_at", UtcDateTime, index=True),
    Column("size_bytes", BigInteger, nullable=False),
    Column("digest", Text, nullable=False),
    Column("is_public", Boolean, nullable=False),
    Column("is_listed", Boolean, nullable=False),
    Column("user_metadata", JSON, nullable=False),
    Index("checkpoints_by_owner", "owner", "created_at"),
)

leases = Table(
    "leases",
    METADATA,
    Column("base_model", Text, primary_key=True),
    Column("epoch", BigInteger, nullable=False),
    Column("holder", Text, nullable=False),
    Column("acquired_at", UtcDateTime, nullable=False),
)

# Where recovery starts from: a run's whole state, gradient included, after the op `seq_id`.
snapshots = Table(
    "snapshots",
    METADATA,
    Column("run_id", Text, ForeignKey("runs.run_id"), primary_key=True),
    Column("seq_id", BigInteger, primary_key=True),
    Column("num_steps", BigInteger, nullable=False),
    Column("created_at", UtcDateTime, nullable=False),
    Column("size_bytes", BigInteger, nullable=False),
    Column("file", Text, nullable=False),
    Column("digest", Text, nullable=False),
    Column("notes", JSON, nullable=False),
)

# What owns sessions, runs, samplers and checkpoints: their `owner` is a project's name.
projects = Table(
    "projects",
    METADATA,
    Column("name", Text, primary_key=True),
    Column("created_at", UtcDateTime, nullable=False),
    Column("weight", Float, nullable=False),
    # Its quotas, by the names of config.Quotas; what is absent takes the server's setting.
    Column("quotas", JSON, nullable=False),
)

api_keys = Table(
    "api_keys",
    METADATA,
    Column("key_id", Text, primary_key=True),
    Column("project", Text, ForeignKey("projects.name"), nullable=False, index=True),
    Column("role", Text, nullable=False),
    Column("label", Text, nullable=False),
    Column("digest", LargeBinary, nullable=False, unique=True),
    Column("created_at", UtcDateTime, nullable=False),
    Column("expires_at", UtcDateTime),
    Column("last_used_at", UtcDateTime),
    Column("revoked_at", UtcDateTime),
)

# Who did what: one row for each request that changed something or was turned away.
audit = Table(
    "audit",
    METADATA,
    Column("row", BigInteger().with_variant(Integer, "sqlite"), primary_key=True),
    Column("at", UtcDateTime, nullable=False, index=True),
    Column("project", Text),
    Column("key_id", Text),
    Column("address", Text),
    Column("action", Text, nullable=False),
    Column("object", Text),
    Column("status", Integer, nullable=False),
    Index("audit_by_project", "project", "row"),
    sqlite_autoincrement=True,
)
