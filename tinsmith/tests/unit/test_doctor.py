from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner
from tinsmith.cli import main


def test_the_doctor_says_which_dtype_why_and_how_fast_both_multiply(tmp_path: Path) -> None:
    done = CliRunner().invoke(main, ["doctor", "--home", str(tmp_path), "--json"])
    assert done.exit_code == 0, done.output
    facts = json.loads(done.stdout)
    assert facts["dtype"] in ("float32", "bfloat16")
    assert facts["dtype_reason"]
    assert set(facts["product_gflops"]) == {"float32", "bfloat16"}
    assert all(rate > 0 for rate in facts["product_gflops"].values())


def test_a_person_reads_each_rate_on_a_line_of_its_own(tmp_path: Path) -> None:
    done = CliRunner().invoke(main, ["doctor", "--home", str(tmp_path)])
    rates = [line.split() for line in done.stdout.splitlines() if line.startswith("product ")]
    assert [(words[1], words[-1]) for words in rates] == [
        ("float32", "GFLOP/s"),
        ("bfloat16", "GFLOP/s"),
    ]
    assert "{" not in done.stdout


def test_a_dtype_in_the_settings_is_reported_as_set(tmp_path: Path) -> None:
    settings = tmp_path / "t.toml"
    settings.write_text('[engine]\ndtype = "bfloat16"\n')
    command = ["doctor", "--home", str(tmp_path), "--config", str(settings), "--json"]
    facts = json.loads(CliRunner().invoke(main, command).stdout)
    assert (facts["dtype"], facts["dtype_reason"]) == ("bfloat16", "as set")


def test_the_loss_gap_of_the_built_in_model_is_measured_on_demand(tmp_path: Path) -> None:
    pytest.importorskip("bitsandbytes", reason="the extra tinsmith[quantized] is not installed")
    command = ["doctor", "--home", str(tmp_path), "--quantize", "8bit", "--json"]
    found = json.loads(CliRunner().invoke(main, command).stdout)["quantization"]
    assert (found["model"], found["quantize"]) == ("tinsmith/tiny", "8bit")
    assert found["gap"] == pytest.approx(found["quantized_loss"] - found["loss"])


def test_a_model_without_a_kind_of_quantising_is_misuse(tmp_path: Path) -> None:
    done = CliRunner().invoke(main, ["doctor", "--home", str(tmp_path), "--model", "a/b"])
    assert done.exit_code == 2
    assert "--quantize" in done.output
