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
