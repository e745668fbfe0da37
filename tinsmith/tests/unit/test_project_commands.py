"""`tinsmith projects`."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from tinsmith.cli import main
from tinsmith.ledger.ledger import Ledger


def tinsmith(home: Path, *arguments: str) -> Result:
    return CliRunner().invoke(main, [*arguments, "--home", str(home)])


def test_a_weight_is_set_and_listed_and_the_audit_log_says_so(tmp_path: Path) -> None:
    assert tinsmith(tmp_path, "keys", "create", "--project", "anna").exit_code == 0
    assert tinsmith(tmp_path, "projects", "set", "new", "--weight", "2.5").exit_code == 0
    assert tinsmith(tmp_path, "projects", "list").stdout.splitlines() == [
        "anna                     weight 1",
        "new                      weight 2.5",
    ]
    told = json.loads(tinsmith(tmp_path, "projects", "list", "--json").stdout)
    assert [(one["name"], one["weight"], one["quotas"]) for one in told] == [
        ("anna", 1.0, {}),
        ("new", 2.5, {}),
    ]
    with_audit = tinsmith(tmp_path, "audit", "--project", "new").stdout
    assert "project_change" in with_audit and "command line" in with_audit


@pytest.mark.parametrize("weight", ["0", "-1", "nan", "inf", "101"])
def test_what_is_no_weight_is_refused(tmp_path: Path, weight: str) -> None:
    refused = tinsmith(tmp_path, "projects", "set", "anna", "--weight", weight)
    assert refused.exit_code == 2
    assert "no weight" in refused.output
    ledger = Ledger.open(tmp_path / "ledger.db")
    try:
        assert ledger.projects() == []
    finally:
        ledger.close()


def test_what_is_no_name_is_refused(tmp_path: Path) -> None:
    assert tinsmith(tmp_path, "projects", "set", "a b", "--weight", "1").exit_code == 2


def test_quotas_are_set_one_by_one_and_taken_off_again(tmp_path: Path) -> None:
    def set_quotas(*quotas: str) -> Result:
        options = [option for quota in quotas for option in ("--quota", quota)]
        return tinsmith(tmp_path, "projects", "set", "anna", *options)

    assert set_quotas("rank=16", "live_runs=0").exit_code == 0
    assert tinsmith(tmp_path, "projects", "set", "anna", "--weight", "2").exit_code == 0
    assert set_quotas("live_runs=").exit_code == 0
    assert "weight 2  rank=16" in tinsmith(tmp_path, "projects", "list").stdout
    (told,) = json.loads(tinsmith(tmp_path, "projects", "list", "--json").stdout)
    assert told["quotas"] == {"rank": 16}


@pytest.mark.parametrize(
    "quota", ["rank", "ranks=3", "=3", "rank=-1", "rank=1.5", "rank=1" + "0" * 15]
)
def test_what_is_no_quota_is_refused(tmp_path: Path, quota: str) -> None:
    refused = tinsmith(tmp_path, "projects", "set", "anna", "--quota", quota)
    assert refused.exit_code == 2
    assert "quota" in refused.output


def test_a_change_of_nothing_is_refused(tmp_path: Path) -> None:
    assert tinsmith(tmp_path, "projects", "set", "anna").exit_code == 2
