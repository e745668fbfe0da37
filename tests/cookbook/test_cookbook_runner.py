"""What `make conformance` says of its programs. That they work is shown by running it."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

from conformance.cookbook import rows_of
from conformance.datasets import write
from conformance.report import Line, machine, table

ROOT = Path(__file__).parents[2]
GOOD = Line("recipes/good.py", "as it is", True, 12, 3.4, "loss 2.0 to 1.0")
BAD = Line("recipes/bad.py", "as it is", False, None, 5.0, "it ended with 1:\nKeyError: 'x'")


def test_a_failed_program_is_told_with_its_whole_reason():
    text = table([GOOD, BAD])
    assert "ok: loss 2.0 to 1.0" in text
    assert "FAILED: it ended with 1:" in text
    assert "KeyError: 'x'" in text
    assert text.endswith("1 of 2 programs ok")


def test_machines_read_whether_all_went_well():
    told = json.loads(machine([GOOD, BAD], {"tinker": "0.38.0"}))
    assert told["ok"] is False
    assert [program["steps"] for program in told["programs"]] == [12, None]
    assert json.loads(machine([GOOD], {}))["ok"] is True


def test_a_line_that_is_still_being_written_is_not_read(tmp_path):
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"step": 0}\n{"step": 1}\n{"st')
    assert rows_of(path) == [{"step": 0}, {"step": 1}]
    assert rows_of(tmp_path / "nothing.jsonl") == []


def test_the_stand_ins_for_data_are_the_same_each_time(tmp_path):
    for name in ("first", "second"):
        write(tmp_path / name)
    files = [path for path in (tmp_path / "first").rglob("*") if path.is_file()]
    assert files
    for path in files:
        twin = tmp_path / "second" / path.relative_to(tmp_path / "first")
        assert path.read_bytes() == twin.read_bytes()


def test_the_runner_does_not_import_what_only_it_needs():
    """So that it can say what is missing where the cookbook is not installed."""
    code = "import sys, conformance.__main__; sys.exit('tinker_cookbook' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)
