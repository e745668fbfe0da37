from __future__ import annotations

import hashlib
import io
import json
import os
import sqlite3
import stat
import tarfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pytest
from sqlalchemy import select, text
from tinsmith.backups.backup import back_up
from tinsmith.backups.pins import Pins
from tinsmith.backups.restore import restore
from tinsmith.checkpoints.store import CheckpointStore
from tinsmith.config import Config
from tinsmith.domain.addresses import CheckpointAddress, CheckpointKind, run_id_of
from tinsmith.domain.errors import InvalidInputError, StorageError
from tinsmith.domain.ops import AdamParams, CreateRun, LoraConfig, OptimStep, SaveState
from tinsmith.domain.outcomes import Saved, StepDone, Succeeded
from tinsmith.domain.records import Checkpoint, Run
from tinsmith.ledger.entries import LeaseLostError
from tinsmith.ledger.ledger import Ledger
from tinsmith.ledger.schema import METADATA, snapshots

MODEL = "org/tiny"
STEP = OptimStep(AdamParams())
DONE = Succeeded(StepDone({}))


@dataclass
class Home:
    """A home folder with a run in its ledger."""

    config: Config
    ledger: Ledger
    store: CheckpointStore
    run: Run
    epoch: int

    @classmethod
    def make(cls, config: Config) -> Home:
        ledger = Ledger.open(config.ledger)
        session = ledger.create_session("local", tags=["a"], user_metadata={"k": "ü"})
        now = datetime.now(UTC)
        run = Run(
            run_id=run_id_of(session.session_id, 0),
            session_id=session.session_id,
            owner="local",
            base_model=MODEL,
            lora=LoraConfig(rank=8, seed=2**63 - 1),
            created_at=now,
            last_request_at=now,
        )
        ledger.create_run(run, CreateRun(MODEL, run.lora))
        store = CheckpointStore(config.home / "checkpoints")
        (config.home / "token-secret").write_bytes(b"s3cret")
        return cls(config, ledger, store, run, ledger.acquire_lease(MODEL, "pid 1"))

    def save(self, seq_id: int, name: str, value: float = 1.0) -> CheckpointAddress:
        """What an engine does for a save."""
        address = CheckpointAddress(self.run.run_id, CheckpointKind.TRAINING, name)
        request_id = self.ledger.append(
            self.run.run_id, seq_id, SaveState(address), owner="local", base_model=MODEL
        )
        arrays = {"lora_A": np.full((2, 3), value, np.float32)}
        written = self.store.write(
            address, adapter=arrays, adapter_config={"r": 2}, optimizer=arrays, overwrite=True
        )
        row = Checkpoint(
            address=address,
            owner="local",
            base_model=MODEL,
            lora=self.run.lora,
            created_at=datetime.now(UTC),
            size_bytes=written.size_bytes,
            digest=written.digest,
        )
        self.ledger.settle(
            request_id, Succeeded(Saved(address)), lease_epoch=self.epoch, checkpoint=row
        )
        return address

    def step(self, seq_id: int) -> str:
        return self.ledger.append(self.run.run_id, seq_id, STEP, owner="local", base_model=MODEL)


def rows_of(ledger: Ledger) -> dict[str, list[tuple]]:
    """All there is, but for what a restore changes on purpose."""
    with ledger._read() as connection:
        return {
            table.name: [
                tuple(row)
                for row in connection.execute(
                    select(*(c for c in table.columns if c.name != "last_heard_at")).order_by(
                        *table.primary_key.columns
                    )
                )
            ]
            for table in METADATA.sorted_tables
            if table.name != "leases"
        }


@pytest.fixture(params=["sqlite", "postgresql"])
def home(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Home]:
    database = "" if request.param == "sqlite" else request.getfixturevalue("postgresql_url")
    folder = tmp_path / "home"
    folder.mkdir()
    home = Home.make(Config(home=folder, database=database))
    yield home
    home.ledger.close()


@pytest.fixture
def sqlite_home(tmp_path: Path) -> Iterator[Home]:
    folder = tmp_path / "home"
    folder.mkdir()
    home = Home.make(Config(home=folder))
    yield home
    home.ledger.close()


@pytest.fixture
def other_database(postgresql_server: str) -> Iterator[str]:
    from tests.postgresql_server import new_database

    with new_database(postgresql_server) as url:
        yield url


def back_up_home(home: Home, target: Path):
    return back_up(home.config.home, home.config.ledger, target)


@pytest.mark.parametrize("name", ["backup", "backup.tar"])
def test_what_was_backed_up_comes_back_whole(home: Home, tmp_path: Path, name: str):
    saved = home.save(1, "first")
    home.ledger.settle(home.step(2), DONE, lease_epoch=home.epoch)
    waiting = home.step(5)
    before = rows_of(home.ledger)

    done = back_up_home(home, tmp_path / name)
    home.step(6)  # the server goes on
    restore(tmp_path / name, tmp_path / "new")

    assert (done.num_checkpoints, done.left_out) == (1, ())
    again = Ledger.open(Config(home=tmp_path / "new").ledger)
    assert rows_of(again) == before
    assert [record.request_id for record in again.pending(MODEL)][1:] == [waiting]
    weights, _ = CheckpointStore(tmp_path / "new" / "checkpoints").read_adapter(saved)
    np.testing.assert_array_equal(weights["lora_A"], np.ones((2, 3), np.float32))
    assert (tmp_path / "new" / "token-secret").read_bytes() == b"s3cret"
    again.close()


def test_a_restored_ledger_lives_in_either_database(
    home: Home, tmp_path: Path, other_database: str
):
    home.save(1, "first")
    waiting = home.step(2)
    before = rows_of(home.ledger)
    back_up_home(home, tmp_path / "backup")

    restore(tmp_path / "backup", tmp_path / "new", other_database)

    assert not (tmp_path / "new" / "ledger.db").exists()
    again = Ledger.open(other_database)
    assert rows_of(again) == before
    last_row = again.pending(MODEL)[-1].row
    again.append(home.run.run_id, 3, STEP, owner="local", base_model=MODEL)
    assert again.pending(MODEL)[-1].row > last_row
    assert again.append(home.run.run_id, 2, STEP, owner="local", base_model=MODEL) == waiting
    again.close()


def test_no_engine_of_before_can_write_to_what_was_restored(home: Home, tmp_path: Path):
    waiting = home.step(1)
    back_up_home(home, tmp_path / "backup")
    restore(tmp_path / "backup", tmp_path / "new")
    again = Ledger.open(Config(home=tmp_path / "new").ledger)

    with pytest.raises(LeaseLostError):
        again.settle(waiting, DONE, lease_epoch=home.epoch)
    assert again.settle(waiting, DONE, lease_epoch=again.acquire_lease(MODEL, "new"))
    again.close()


def test_clients_have_their_time_to_come_back_after_a_restore(home: Home, tmp_path: Path):
    long_ago = datetime.now(UTC) - timedelta(days=9)
    home.ledger._write(
        lambda c: c.execute(METADATA.tables["sessions"].update().values(last_heard_at=long_ago))
    )
    home.ledger._write(
        lambda c: c.execute(METADATA.tables["runs"].update().values(last_request_at=long_ago))
    )
    back_up_home(home, tmp_path / "backup")
    restore(tmp_path / "backup", tmp_path / "new")
    again = Ledger.open(Config(home=tmp_path / "new").ledger)

    assert again.silent_sessions(datetime.now(UTC) - timedelta(minutes=15)) == []
    again.close()


@pytest.mark.parametrize("name", ["backup", "backup.tar"])
@pytest.mark.parametrize("what", ["ledger.db", "adapter_model.safetensors", "token-secret"])
def test_a_damaged_backup_is_refused_and_changes_nothing(
    sqlite_home: Home, tmp_path: Path, name: str, what: str
):
    sqlite_home.save(1, "first")
    backup = tmp_path / name
    back_up_home(sqlite_home, backup)
    if name == "backup":
        (damaged,) = backup.rglob(what)
        offset = 0
    else:
        damaged = backup
        with tarfile.open(backup) as tar:
            (member,) = (m for m in tar.getmembers() if m.name.endswith(what))
            offset = member.offset_data
    data = bytearray(damaged.read_bytes())
    data[offset + 3] ^= 1
    damaged.write_bytes(data)

    with pytest.raises(InvalidInputError, match=f"damaged: .*{what} is not what was written"):
        restore(backup, tmp_path / "new")
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(["home", name])


def _without_manifest(backup: Path) -> None:
    (backup / "manifest.json").unlink()


def _with_a_file_missing(backup: Path) -> None:
    (backup / "token-secret").unlink()


def _change(backup: Path, **values) -> None:
    path = backup / "manifest.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **values}))


def _of_a_newer_format(backup: Path) -> None:
    _change(backup, format=99)


def _of_a_newer_schema(backup: Path) -> None:
    _change(backup, schema=99)


def _with_a_way_out(backup: Path) -> None:
    _change(backup, files={"ledger.db": {}, "checkpoints/../../evil": {"bytes": 1, "sha256": ""}})


def _without_a_ledger(backup: Path) -> None:
    _change(backup, files={})


@pytest.mark.parametrize(
    ("spoil", "told"),
    [
        (_without_manifest, "manifest.json is missing"),
        (_with_a_file_missing, "token-secret is missing"),
        (_of_a_newer_format, "format 99"),
        (_of_a_newer_schema, "schema 99"),
        (_with_a_way_out, "damaged one: manifest.json|names 'checkpoints/../../evil'"),
        (_without_a_ledger, "holds no ledger"),
    ],
)
def test_what_is_no_good_backup_is_refused_by_name(
    sqlite_home: Home, tmp_path: Path, spoil: Callable[[Path], None], told: str
):
    back_up_home(sqlite_home, tmp_path / "backup")
    spoil(tmp_path / "backup")

    with pytest.raises(InvalidInputError, match=told):
        restore(tmp_path / "backup", tmp_path / "new")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["backup", "home"]


def test_a_file_that_is_no_tar_is_no_backup(tmp_path: Path):
    file = tmp_path / "notes.tar"
    file.write_text("these are somebody's notes")

    with pytest.raises(InvalidInputError, match="neither a folder nor a tar file"):
        restore(file, tmp_path / "new")


@pytest.mark.parametrize("kept", [0.3, 0.9])
def test_a_tar_that_was_cut_short_is_damaged(sqlite_home: Home, tmp_path: Path, kept: float):
    sqlite_home.save(1, "first")
    backup = tmp_path / "backup.tar"
    back_up_home(sqlite_home, backup)
    data = backup.read_bytes()
    backup.write_bytes(data[: int(kept * len(data))])

    with pytest.raises(InvalidInputError, match="damaged"):
        restore(backup, tmp_path / "new")
    assert not (tmp_path / "new").exists()


def test_a_backup_that_cannot_be_written_leaves_nothing(sqlite_home: Home, tmp_path: Path):
    with pytest.raises(StorageError, match="cannot be made"):
        back_up_home(sqlite_home, tmp_path / "nowhere" / "backup")
    assert [path.name for path in tmp_path.iterdir()] == ["home"]


def test_the_ledger_of_a_backup_is_one_file_that_anybody_can_read(home: Home, tmp_path: Path):
    home.step(1)
    back_up_home(home, tmp_path / "backup")

    file = tmp_path / "backup" / "ledger.db"
    assert [path.name for path in file.parent.glob("ledger*")] == ["ledger.db"]
    connection = sqlite3.connect(f"file:{file}?mode=ro&immutable=1", uri=True)
    assert connection.execute("PRAGMA journal_mode").fetchone() == ("delete",)
    assert connection.execute("SELECT count(*) FROM ops").fetchone() == (2,)
    connection.close()


def test_a_link_in_a_tar_is_not_followed(tmp_path: Path):
    file = tmp_path / "odd.tar"
    entry = {"bytes": 1, "sha256": "00"}
    manifest = json.dumps({"format": 1, "files": {"ledger.db": entry}}).encode()
    with tarfile.open(file, "w") as tar:
        link = tarfile.TarInfo("ledger.db")
        link.type, link.linkname = tarfile.SYMTYPE, "manifest.json"
        tar.addfile(link)
        about = tarfile.TarInfo("manifest.json")
        about.size = len(manifest)
        tar.addfile(about, io.BytesIO(manifest))

    with pytest.raises(InvalidInputError, match=r"ledger.db is missing"):
        restore(file, tmp_path / "new")


def test_nothing_is_overwritten(home: Home, tmp_path: Path, other_database: str):
    back_up_home(home, tmp_path / "backup")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "notes").touch()
    Ledger.open(other_database).close()

    with pytest.raises(InvalidInputError, match="exists already"):
        back_up_home(home, tmp_path / "backup")
    with pytest.raises(InvalidInputError, match="holds something already"):
        restore(tmp_path / "backup", tmp_path / "full")
    with pytest.raises(InvalidInputError, match="holds a ledger already"):
        restore(tmp_path / "backup", tmp_path / "new", other_database)
    assert not (tmp_path / "new").exists()
    (tmp_path / "new").mkdir()
    restore(tmp_path / "backup", tmp_path / "new")  # an empty one is as good as none


def test_a_checkpoint_that_is_replaced_or_deleted_meanwhile_is_still_in_the_pins(
    sqlite_home: Home,
):
    replaced, deleted = sqlite_home.save(1, "replaced", 1.0), sqlite_home.save(2, "deleted")
    with Pins.of(sqlite_home.config.home) as pins:
        pins.take()
        sqlite_home.save(3, "replaced", 2.0)
        sqlite_home.store.delete(deleted)
        pins.take()
        newer, older = (CheckpointStore(one / "checkpoints") for one in pins.generations())

        assert newer.read_adapter(replaced)[0]["lora_A"][0, 0] == 2.0
        assert older.read_adapter(replaced)[0]["lora_A"][0, 0] == 1.0
        assert older.read_adapter(deleted)[0]["lora_A"][0, 0] == 1.0
    assert not (sqlite_home.config.home / ".backup").exists()


def test_one_backup_at_a_time(sqlite_home: Home, tmp_path: Path):
    with (
        Pins.of(sqlite_home.config.home),
        pytest.raises(StorageError, match="another backup"),
    ):
        back_up_home(sqlite_home, tmp_path / "backup")


def test_what_the_home_has_lost_is_left_out_and_told(home: Home, tmp_path: Path):
    lost, spoiled, good = home.save(1, "lost"), home.save(2, "spoiled"), home.save(3, "good")
    home.store.delete(lost)
    weights = home.store.folder(spoiled) / "optimizer.safetensors"
    weights.chmod(0o600)
    weights.write_bytes(weights.read_bytes()[:-1] + b"!")
    home.ledger._write(
        lambda c: c.execute(
            snapshots.insert().values(
                run_id=home.run.run_id,
                seq_id=1,
                num_steps=1,
                created_at=datetime.now(UTC),
                size_bytes=1,
                file="tiny/lost.safetensors",
                digest="00",
                notes={},
            )
        )
    )

    done = back_up_home(home, tmp_path / "backup")
    restore(tmp_path / "backup", tmp_path / "new")

    assert set(done.left_out) == {str(lost), str(spoiled), "snapshot tiny/lost.safetensors"}
    again = Ledger.open(Config(home=tmp_path / "new").ledger)
    assert [row.address for row in again.checkpoints()[0]] == [good]
    again.close()
    assert len(home.ledger.checkpoints()[0]) == 3  # the home itself is left as it is


def test_snapshots_come_along(home: Home, tmp_path: Path):
    data = b"a run's whole state"
    folder = home.config.home / "snapshots" / "tiny"
    folder.mkdir(parents=True)
    (folder / "a.safetensors").write_bytes(data)
    home.ledger._write(
        lambda c: c.execute(
            snapshots.insert().values(
                run_id=home.run.run_id,
                seq_id=1,
                num_steps=1,
                created_at=datetime.now(UTC),
                size_bytes=len(data),
                file="tiny/a.safetensors",
                digest=hashlib.sha256(data).hexdigest(),
                notes={"window_start": 0},
            )
        )
    )

    assert back_up_home(home, tmp_path / "backup.tar").num_snapshots == 1
    restore(tmp_path / "backup.tar", tmp_path / "new")

    assert (tmp_path / "new" / "snapshots" / "tiny" / "a.safetensors").read_bytes() == data


@pytest.mark.skipif(os.name == "nt", reason="no such modes")
def test_backups_and_what_is_made_of_them_are_private(sqlite_home: Home, tmp_path: Path):
    sqlite_home.save(1, "first")
    for name in ("folder", "file.tar"):
        back_up_home(sqlite_home, tmp_path / name)
    restore(tmp_path / "folder", tmp_path / "new")

    for path in (tmp_path / "folder", tmp_path / "file.tar", tmp_path / "new"):
        for part in (path, *path.rglob("*")):
            assert stat.S_IMODE(part.stat().st_mode) & 0o077 == 0 or part.is_dir(), part
    assert stat.S_IMODE((tmp_path / "folder").stat().st_mode) == 0o700


def test_where_there_is_no_ledger_there_is_nothing_to_back_up(tmp_path: Path, postgresql_url: str):
    (tmp_path / "home").mkdir()
    for config in (
        Config(home=tmp_path / "home"),
        Config(home=tmp_path / "home", database=postgresql_url),
    ):
        with pytest.raises(StorageError, match="nothing to back up"):
            back_up(config.home, config.ledger, tmp_path / "backup")
    assert [path.name for path in tmp_path.iterdir()] == ["home"]


def test_a_ledger_of_another_schema_in_postgresql_is_backed_up_by_its_own_tinsmith(
    tmp_path: Path, postgresql_url: str
):
    (tmp_path / "home").mkdir()
    home = Home.make(Config(home=tmp_path / "home", database=postgresql_url))
    home.ledger._write(lambda c: c.execute(text("UPDATE schema_version SET version = 99")))

    with pytest.raises(StorageError, match="schema 99"):
        back_up_home(home, tmp_path / "backup")
    home.ledger.close()


def test_a_backup_leaves_an_older_ledger_as_it_is(tmp_path: Path):
    """So it can be made by the new tinsmith before its server upgrades the ledger."""
    dump = Path(__file__).parents[1] / "ledger" / "released" / "schema_1.sql"
    (tmp_path / "home").mkdir()
    connection = sqlite3.connect(tmp_path / "home" / "ledger.db")
    connection.executescript(dump.read_text())
    done = back_up(tmp_path / "home", tmp_path / "home" / "ledger.db", tmp_path / "backup")

    assert connection.execute("SELECT version FROM schema_version").fetchall() == [(1,)]
    connection.close()
    assert len(done.left_out) == 1  # the dump comes without its checkpoint's files
    restore(tmp_path / "backup", tmp_path / "new")
    again = Ledger.open(tmp_path / "new" / "ledger.db")
    assert len(again.sessions("local", limit=9)) == 2
    again.close()


def test_only_postgresql_urls_are_databases():
    config = Config()
    assert config.ledger == config.home / "ledger.db"
    assert replace(config, database="postgresql://host/db").ledger == "postgresql://host/db"
    with pytest.raises(InvalidInputError, match="postgresql://USER@HOST/NAME") as told:
        Config(database="mysql://anna:s3cret@host/db")
    assert "s3cret" not in str(told.value)
    assert "s3cret" not in repr(replace(config, database="postgresql://anna:s3cret@host/db"))
