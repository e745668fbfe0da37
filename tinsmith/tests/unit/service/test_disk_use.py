from __future__ import annotations

import json
import shutil

import pytest
from click.testing import CliRunner, Result
from tinsmith.cli import main
from tinsmith.ledger.usage_ledger import DiskShare
from tinsmith.service.disk_use import DiskUseMeter, measure_disk_use


def shown(*arguments: str) -> Result:
    return CliRunner().invoke(main, ["disk", *arguments])


@pytest.fixture
def full_house(house):
    house.saved(house.run(), size_bytes=3 * 2**20)
    house.saved(house.run(house.boris), size_bytes=2**10)
    aside = house.home / "aside" / "some-model"
    aside.mkdir(parents=True)
    (aside / "run.safetensors").write_bytes(b"x" * 500)
    return house


def test_the_disk_is_told_by_kind_and_by_project(full_house):
    use = measure_disk_use(full_house.config, full_house.ledger)

    assert use.projects == (DiskShare("anna", 3 * 2**20, 0), DiskShare("boris", 2**10, 0))
    assert use.aside == 500
    assert use.by_kind["checkpoints"] == 3 * 2**20 + 2**10
    assert use.free == pytest.approx(shutil.disk_usage(full_house.home).free, rel=0.5)
    assert use.min_free == full_house.config.limits.min_free_bytes


def test_it_is_not_measured_again_at_once(full_house):
    meter = DiskUseMeter(full_house.config, full_house.ledger)
    first = meter.read()
    full_house.saved(full_house.run(), size_bytes=1)

    assert meter.read() is first


def test_the_command_shows_limits_beside_what_is_used(full_house):
    full_house.ledger.change_project("anna", quotas={"stored_bytes": 4 * 2**20})
    file, database = full_house.home / "ledger.db", full_house.config.database
    options = ("--home", str(full_house.home), *(("--database", database) if database else ()))

    text = shown(*options).output
    told = json.loads(shown(*options, "--json").output)

    assert "new work stops below 256.0 MiB" in text
    assert "3.0 MiB   checkpoints, of 4.0 MiB" in text
    assert "1.0 KiB   checkpoints, no quota" in text
    assert told["used"]["checkpoints"] == 3 * 2**20 + 2**10
    assert told["ledger"] >= (file.stat().st_size if file.exists() else 0)
    assert (told["ledger"] == 0) == bool(database)
    assert [share["stored_bytes_quota"] for share in told["projects"]] == [4 * 2**20, 0]


def test_without_a_home_folder_there_is_nothing_to_show(tmp_path):
    result = shown("--home", str(tmp_path / "none"))

    assert result.exit_code == 1
    assert "there is no home folder" in result.output
    assert not (tmp_path / "none").exists()
