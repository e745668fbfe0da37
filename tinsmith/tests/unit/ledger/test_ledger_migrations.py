from __future__ import annotations

import pytest
from sqlalchemy import inspect, text
from tinsmith.domain.errors import StorageError
from tinsmith.ledger.ledger import Ledger
from tinsmith.ledger.migrations import MIGRATIONS, bring_up_to_date


def test_a_newer_schema_is_refused_and_not_touched(ledger: Ledger, ledger_place: str):
    ledger._write(lambda c: c.execute(text("UPDATE schema_version SET version = 99")))

    with pytest.raises(StorageError, match=r"schema 99.*newer"):
        Ledger.open(ledger_place)
    with ledger._read() as connection:
        assert connection.execute(text("SELECT version FROM schema_version")).scalar() == 99


def test_migrations_run_in_order_and_once(ledger: Ledger):
    done: list[str] = []
    steps = (
        lambda connection: done.append("to 2"),
        lambda connection: done.append("to 3"),
    )

    ledger._write(lambda c: c.execute(text("UPDATE schema_version SET version = 1")))
    ledger._write(lambda c: bring_up_to_date(c, steps))
    ledger._write(lambda c: bring_up_to_date(c, steps))

    assert done == ["to 2", "to 3"]


def test_a_migration_that_fails_leaves_the_old_schema(ledger: Ledger):
    newest = 1 + len(MIGRATIONS)

    def half(connection) -> None:
        connection.execute(text("CREATE TABLE half (a INTEGER)"))
        raise LookupError("half done")

    with pytest.raises(LookupError):
        ledger._write(lambda c: bring_up_to_date(c, (*MIGRATIONS, half)))

    with ledger._read() as connection:
        assert connection.execute(text("SELECT version FROM schema_version")).scalar() == newest
        assert not inspect(connection).has_table("half")
