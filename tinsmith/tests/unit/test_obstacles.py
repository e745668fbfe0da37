"""What would be in the way of a server, found before there is one."""

from __future__ import annotations

import os
import sqlite3
import time
from contextlib import closing
from pathlib import Path

import pytest
from tinsmith.config import Config, Engine, Http, Limits
from tinsmith.doctor import examine
from tinsmith.domain.projects import Role
from tinsmith.ledger.ledger import Ledger
from tinsmith.ledger.migrations import NEWEST_VERSION, version_of
from tinsmith.obstacles import find_obstacles
from tinsmith.service.keys import Keys


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """One with a ledger."""
    Ledger.open(tmp_path / "ledger.db").close()
    return tmp_path


def set_version(home: Path, version: int) -> None:
    with closing(sqlite3.connect(home / "ledger.db")) as connection:
        connection.execute("UPDATE schema_version SET version = ?", [version])
        connection.commit()


def the_obstacle(config: Config) -> str:
    (found,) = find_obstacles(config)
    return found


def test_nothing_is_in_the_way_of_a_new_home_or_one_in_use_and_nothing_is_made(home):
    assert find_obstacles(Config(home=home / "new")) == find_obstacles(Config(home=home)) == []
    assert not (home / "new").exists()


def test_a_home_below_a_file_cannot_be_made(home):
    (home / "file").touch()
    assert "is a file" in the_obstacle(Config(home=home / "file" / "home"))


@pytest.mark.skipif(os.name == "nt" or os.geteuid() == 0, reason="root may write everywhere")
def test_a_home_that_is_not_writable_is_told(tmp_path):
    tmp_path.chmod(0o500)
    assert "not writable" in the_obstacle(Config(home=tmp_path / "home"))
    tmp_path.chmod(0o700)


def test_a_disk_below_the_limit_would_stop_intake(home):
    config = Config(home=home, limits=Limits(min_free_bytes=2**60))
    assert "no new work is taken in" in the_obstacle(config)


def test_a_newer_ledger_is_told_and_an_older_one_left_as_it_is(home):
    set_version(home, NEWEST_VERSION + 1)
    assert "a newer one wrote it" in the_obstacle(Config(home=home))
    set_version(home, 1)
    assert find_obstacles(Config(home=home)) == []
    assert version_of(home / "ledger.db") == 1


def test_a_database_that_is_away_is_told_without_its_password(home):
    pytest.importorskip("psycopg", reason="the extra tinsmith[postgresql] is not installed")
    found = the_obstacle(Config(home=home, database="postgresql://me:hush@127.0.0.1:1/none"))
    assert "cannot be reached" in found
    assert "hush" not in found


@pytest.mark.parametrize("there", [{"host": "0.0.0.0"}, {"http": Http(public_url="https://t.ex")}])
def test_a_server_for_other_machines_wants_a_key(home, there):
    config = Config(home=home, **there)
    assert "tinsmith keys create" in the_obstacle(config)

    with closing(Ledger.open(config.ledger)) as ledger:
        Keys(ledger, "test").create("local", Role.OWNER)
    assert find_obstacles(config) == []


def test_a_certificate_that_is_not_there_is_told(home):
    http = Http(tls_cert=str(home / "none.pem"), tls_key=str(home / "none.key"))
    assert "cannot read" in the_obstacle(Config(home=home, http=http))


def test_a_clock_before_the_ledgers_last_write_is_told(home):
    os.utime(home / "ledger.db", (time.time() + 90_000,) * 2)
    assert "the clock says" in the_obstacle(Config(home=home))


@pytest.mark.skipif(os.name == "nt", reason="there is no such limit")
def test_more_connections_than_open_files_are_told(home):
    import resource

    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard == resource.RLIM_INFINITY:
        pytest.skip("this system has no such limit")
    assert "ulimit -n" in the_obstacle(Config(home=home, http=Http(max_connections=hard)))
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_a_model_that_does_not_fit_into_memory_is_told(home):
    model = home / "model"
    model.mkdir()
    # The header alone, of a tensor of a million times a million: nothing else is read of it.
    header = b'{"w":{"dtype":"F32","shape":[1000000,1000000],"data_offsets":[0,4000000000000]}}'
    with (model / "model.safetensors").open("wb") as file:
        file.write(len(header).to_bytes(8, "little") + header)
        file.truncate(8 + len(header) + 4 * 10**12)
    config = Config(home=home, models=(f"org/huge={model}",), engine=Engine(device="cpu"))

    facts = examine(config)

    assert any("org/huge" in problem and "GiB" in problem for problem in facts["problems"])
    assert 0 < facts["free_device_bytes"] == pytest.approx(facts["free_memory_bytes"], rel=0.5)
