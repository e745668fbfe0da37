from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sqlalchemy import Connection, func, inspect, select, text
from tinsmith.domain.addresses import CheckpointKind
from tinsmith.domain.errors import StorageError
from tinsmith.domain.ops import AdamParams, ForwardBackward, OptimStep, Sample, SaveState
from tinsmith.domain.outcomes import Failed, ForwardBackwardDone, Sampled, StepDone, Succeeded
from tinsmith.ledger.ledger import Ledger
from tinsmith.ledger.migrations import MIGRATIONS, bring_up_to_date
from tinsmith.ledger.schema import METADATA

MODEL = "org/tiny"
RELEASED = sorted((Path(__file__).parent / "released").glob("schema_*.sql"))
TABLES_OF_SCHEMA_1 = {"sessions", "runs", "samplers", "ops", "checkpoints", "leases"}
AFFINITIES = {
    # What SQLite makes of a type's name (https://sqlite.org/datatype3.html, 3.1).
    "INTEGER": ("INT",),
    "TEXT": ("CHAR", "CLOB", "TEXT"),
    "BLOB": ("BLOB",),
    "REAL": ("REAL", "FLOA", "DOUB"),
}


@pytest.fixture(params=RELEASED, ids=lambda path: path.stem)
def migrated(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Ledger]:
    """What released code has written, opened today."""
    file = tmp_path / "old.db"
    connection = sqlite3.connect(file)
    connection.executescript(request.param.read_text())
    connection.close()
    ledger = Ledger.open(file)
    yield ledger
    ledger.close()


def affinity(type_name: str) -> str:
    for name, marks in AFFINITIES.items():
        if any(mark in type_name for mark in marks):
            return name
    return "NUMERIC"


def shape_of(ledger: Ledger) -> dict[str, Any]:
    """Everything about the tables that matters, by table; the order of columns does not."""
    with ledger._read() as connection:
        look = inspect(connection)
        return {name: _table(connection, look, name) for name in look.get_table_names()}


def _table(connection: Connection, look: Any, name: str) -> dict[str, Any]:
    made = connection.execute(
        text("SELECT sql FROM sqlite_master WHERE type = 'table' AND name = :name"), {"name": name}
    ).scalar_one()
    indexes = connection.execute(
        text(
            "SELECT sql FROM sqlite_master "
            "WHERE type = 'index' AND tbl_name = :name AND sql IS NOT NULL"
        ),
        {"name": name},
    ).scalars()
    return {
        "columns": {
            column["name"]: (affinity(str(column["type"]).upper()), column["nullable"])
            for column in look.get_columns(name)
        },
        "key": look.get_pk_constraint(name)["constrained_columns"],
        "foreign": sorted(
            (key["constrained_columns"], key["referred_table"], key["referred_columns"])
            for key in look.get_foreign_keys(name)
        ),
        "unique": sorted(one["column_names"] for one in look.get_unique_constraints(name)),
        # As text, for the inspector does not read a condition that goes over several lines.
        "indexes": sorted(" ".join(index.split()) for index in indexes),
        "numbers only grow": "AUTOINCREMENT" in made.upper(),
    }


def test_every_released_schema_has_a_dump_here():
    """A migration that is released needs the dump of a ledger from before it."""
    versions = [int(path.stem.removeprefix("schema_")) for path in RELEASED]
    assert versions == list(range(1, len(MIGRATIONS) + 1))


def test_a_migrated_ledger_has_the_tables_of_a_new_one(migrated: Ledger, tmp_path: Path):
    fresh = Ledger.open(tmp_path / "fresh.db")

    assert shape_of(migrated) == shape_of(fresh)
    fresh.close()


def test_the_dumps_have_rows_in_every_table_of_their_time(migrated: Ledger):
    with migrated._read() as connection:
        counts = {
            table.name: connection.execute(select(func.count()).select_from(table)).scalar_one()
            for table in METADATA.sorted_tables
        }
    assert all(counts[name] for name in TABLES_OF_SCHEMA_1), counts


def test_a_migrated_ledger_gives_back_every_row(migrated: Ledger):
    sessions = {session.display_name: session for session in migrated.sessions("local", limit=9)}
    assert sessions.keys() == {"one", None}
    session = sessions["one"]
    assert (session.tags, session.user_metadata) == (("a", "b"), {"k": "ü"})
    assert sessions[None].end_reason == "success"

    (run,), total = migrated.runs("local", limit=9)
    assert total == 1
    assert (run.session_id, run.lora.seed, run.lora.train_unembed) == (
        session.session_id,
        2**63 - 1,
        False,
    )
    assert run.user_metadata == {"purpose": "test"}
    assert migrated.run_last_seq(run.run_id) == 7

    (checkpoint,), _ = migrated.checkpoints("local")
    assert (checkpoint.address.kind, checkpoint.address.name) == (CheckpointKind.TRAINING, "first")
    assert (checkpoint.size_bytes, checkpoint.user_metadata) == (2**40, {"step": "1"})
    (sampler_id,) = migrated.sampler_ids(session.session_id)
    sampler = migrated.sampler(sampler_id)
    assert sampler is not None and sampler.checkpoint == checkpoint.address

    batch, step, sample = migrated.pending(MODEL)
    assert isinstance(batch.op, ForwardBackward)
    assert batch.op.data[0].tokens.tolist() == [0, 1]
    assert (step.seq_id, step.op) == (7, OptimStep(AdamParams()))
    assert isinstance(sample.op, Sample)
    assert sample.seq_id == 2**63 - 1

    done = migrated.outcomes([f"{run.run_id}#{n}" for n in range(8)] + [f"{sampler_id}#0"])
    kinds = {
        int(request_id.rpartition("#")[2]): getattr(outcome, "result", outcome)
        for request_id, outcome in done.items()
        if request_id.startswith(run.run_id)
    }
    assert kinds.keys() == {0, 1, 2, 3, 4}
    assert isinstance(kinds[1], ForwardBackwardDone)
    np.testing.assert_array_equal(kinds[1].logprobs[0], np.array([-0.5, -0.25], np.float32))
    assert kinds[2] == StepDone({"grad_norm:mean": 1.5})
    assert isinstance(kinds[3], Failed)
    sampled = done[f"{sampler_id}#0"]
    assert isinstance(sampled, Succeeded) and isinstance(sampled.result, Sampled)


def test_a_migrated_ledger_goes_on_where_it_was(migrated: Ledger):
    (run,), _ = migrated.runs("local", limit=9)
    (checkpoint,), _ = migrated.checkpoints("local")
    save = SaveState(checkpoint.address)

    def append(seq_id: int, op: Any) -> str:
        return migrated.append(run.run_id, seq_id, op, owner="local", base_model=MODEL)

    assert append(7, OptimStep(AdamParams())) == f"{run.run_id}#7"  # a repeat is known as one
    assert append(4, save) == f"{run.run_id}#4"
    appended = append(8, OptimStep(AdamParams()))
    last = migrated.pending(MODEL)[-1]
    assert (last.request_id, last.row) == (appended, 10)
    epoch = migrated.acquire_lease(MODEL, "today's engine")
    assert epoch == 2
    for record in migrated.pending(MODEL):
        assert migrated.settle(record.request_id, Succeeded(StepDone({})), lease_epoch=epoch)
    assert migrated.set_project(run.session_id, "mail")


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
