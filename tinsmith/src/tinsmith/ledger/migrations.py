"""How an older ledger becomes one of today."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from sqlalchemy import Connection, insert, inspect, select, text, update

from tinsmith.domain.errors import StorageError
from tinsmith.ledger.database import database_of
from tinsmith.ledger.schema import METADATA, schema_version

Migration = Callable[[Connection], None]


def _sessions_have_projects(connection: Connection) -> None:
    connection.execute(text("ALTER TABLE sessions ADD COLUMN project_id TEXT"))


def _runs_can_be_replayed(connection: Connection) -> None:
    for statement in (
        "ALTER TABLE runs ADD COLUMN inexact TEXT",
        "ALTER TABLE ops ADD COLUMN execution TEXT",
        """CREATE INDEX ops_training_results ON ops (settled_at)
            WHERE kind IN ('forward', 'forward_backward') AND outcome IS NOT NULL
            AND is_failed IS 0""",
        """CREATE TABLE snapshots (
            run_id TEXT NOT NULL REFERENCES runs (run_id), seq_id BIGINT NOT NULL,
            num_steps BIGINT NOT NULL, created_at TIMESTAMP NOT NULL, size_bytes BIGINT NOT NULL,
            file TEXT NOT NULL, digest TEXT NOT NULL, notes JSON NOT NULL,
            PRIMARY KEY (run_id, seq_id))""",
        """CREATE TABLE projects (
            name TEXT NOT NULL PRIMARY KEY, created_at TIMESTAMP NOT NULL, weight FLOAT NOT NULL,
            quotas JSON NOT NULL)""",
        """CREATE TABLE api_keys (
            key_id TEXT NOT NULL PRIMARY KEY, project TEXT NOT NULL REFERENCES projects (name),
            role TEXT NOT NULL, label TEXT NOT NULL, digest BLOB NOT NULL UNIQUE,
            created_at TIMESTAMP NOT NULL, expires_at TIMESTAMP, last_used_at TIMESTAMP,
            revoked_at TIMESTAMP)""",
        "CREATE INDEX ix_api_keys_project ON api_keys (project)",
        """CREATE TABLE audit (
            "row" INTEGER NOT NULL PRIMARY KEY AUTOINCREMENT, at TIMESTAMP NOT NULL, project TEXT,
            key_id TEXT, address TEXT, action TEXT NOT NULL, object TEXT,
            status INTEGER NOT NULL)""",
        "CREATE INDEX ix_audit_at ON audit (at)",
        'CREATE INDEX audit_by_project ON audit (project, "row")',
    ):
        connection.execute(text(statement))


MIGRATIONS: Sequence[Migration] = (_sessions_have_projects, _runs_can_be_replayed)
"""Entry n takes a ledger from version n + 1 to n + 2, in plain SQL of that time; it is never
changed once it has been released. `schema` says what the last one leads to."""

NEWEST_VERSION = 1 + len(MIGRATIONS)


def version_of(url_or_path: str | Path) -> int | None:
    """The schema of the ledger that is kept there, which is left as it is; None if there is none.

    Raises:
        StorageError: it can't be read, or the database is away.
        InvalidInputError: PostgreSQL's driver is not installed.
    """
    if isinstance(url_or_path, Path) and not url_or_path.exists():
        return None
    database = database_of(url_or_path)
    reading, _ = database.open()
    try:
        with database.errors(), reading.connect() as connection:
            if not inspect(connection).has_table(schema_version.name):
                return None
            return connection.execute(select(schema_version.c.version)).scalar_one()
    finally:
        reading.dispose()


def bring_up_to_date(connection: Connection, migrations: Sequence[Migration] = MIGRATIONS) -> None:
    """Make the tables, or migrate them, in the caller's transaction.

    Raises:
        StorageError: a newer program wrote this ledger.
    """
    newest = 1 + len(migrations)
    if not inspect(connection).has_table(schema_version.name):
        METADATA.create_all(connection)
        connection.execute(insert(schema_version).values(only_row=1, version=newest))
        return
    version = connection.execute(select(schema_version.c.version)).scalar_one()
    if version > newest:
        raise StorageError(
            f"this ledger has schema {version}, and this tinsmith knows up to {newest}: a newer "
            "one wrote it. Use that one, or start with another --home."
        )
    for migrate in migrations[version - 1 :]:
        migrate(connection)
    connection.execute(update(schema_version).values(version=newest))
