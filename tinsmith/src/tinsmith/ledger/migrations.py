"""How an older ledger becomes one of today."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from sqlalchemy import Connection, insert, inspect, select, text, update

from tinsmith.domain.errors import StorageError
from tinsmith.ledger.schema import METADATA, schema_version

Migration = Callable[[Connection], None]


def _sessions_have_projects(connection: Connection) -> None:
    connection.execute(text("ALTER TABLE sessions ADD COLUMN project_id TEXT"))


MIGRATIONS: Sequence[Migration] = (_sessions_have_projects,)
"""Entry n takes a ledger from version n + 1 to n + 2, in plain SQL of that time; it is never
changed once it has been released. `schema` says what the last one leads to."""


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
