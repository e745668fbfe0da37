import json
import subprocess
import sys
import time

import pytest
from click.testing import CliRunner
from mailroom.cli.main import COMMANDS, main


def run(*arguments: str):
    return CliRunner().invoke(main, list(arguments))


def test_help_is_there_at_once_and_names_every_command():
    started = time.monotonic()
    done = subprocess.run(
        [sys.executable, "-X", "importtime", "-m", "mailroom.cli.main", "--help"],
        capture_output=True,
        text=True,
        check=True,
    )

    assert all(f"  {name} " in done.stdout for name in COMMANDS)
    # What makes it slow is what it imports; a clock alone would fail on a busy machine.
    imported = {line.rsplit("|", 1)[-1].strip() for line in done.stderr.splitlines()}
    assert not imported & {"tinker", "torch", "transformers", "numpy", "sklearn", "tinsmith"}
    assert time.monotonic() - started < 30


@pytest.mark.parametrize("name", COMMANDS)
def test_each_command_takes_json_and_explains_itself(name):
    result = run(name, "--help")

    assert result.exit_code == 0 and "--json" in result.output


@pytest.mark.parametrize(
    "arguments",
    [
        ["build"],
        ["build", "--data", "builtin"],
        ["train"],
        ["train", "--corpus", "x", "--rank", "0"],
        ["train", "--corpus", "x", "--learning-rate", "-1"],
        ["train", "--corpus", "x", "--preset", "huge"],
        ["evaluate", "--corpus", "x"],
        ["triage", "--model", "base"],
        ["triage", "mail.eml", "--model", "base", "--threshold", "2"],
        ["dream"],
    ],
)
def test_misuse_ends_with_two(arguments):
    assert run(*arguments).exit_code == 2


def test_a_model_reference_that_is_none_is_misuse(tmp_path):
    mail = tmp_path / "a.eml"
    mail.write_text("Subject: x\n\ny\n")

    result = run("triage", str(mail), "--model", "final")

    assert result.exit_code == 2 and "sampler_weights" in result.output


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (["--model", "final"], "no path of weights"),
        (["--model", "base"], "no path of weights"),
        (["--model", "tinker://r/sampler_weights/f", "--push", "name"], "OWNER/NAME"),
    ],
)
def test_an_export_of_what_cannot_be_is_misuse_before_anything_starts(tmp_path, options, says):
    home = tmp_path / "home"

    result = run("export", *options, "--out", str(tmp_path / "out"), "--home", str(home))

    assert result.exit_code == 2 and says in result.output
    assert not home.exists()


def test_a_place_without_mail_is_misuse():
    result = run("triage", "/nowhere/mail.eml", "--model", "base")

    assert result.exit_code == 2 and "/nowhere/mail.eml" in result.output


def test_what_failed_is_one_line_and_ends_with_one(tmp_path):
    result = run("train", "--corpus", str(tmp_path))

    assert result.exit_code == 1
    assert result.output.startswith("Error: ") and "corpus.json" in result.output
    assert "Traceback" not in result.output


def test_an_export_over_other_files_is_refused_before_anything_starts(tmp_path):
    (tmp_path / "photo.jpg").write_bytes(b"x")

    result = run("export", "--model", "tinker://r/sampler_weights/f", "--out", str(tmp_path))

    assert result.exit_code == 1 and "holds other files" in result.output


def test_build_prints_one_document_and_the_same_for_the_same_arguments(tmp_path):
    words = ("anchor", "birch", "copper", "delta", "ember", "fjord", "grove", "heron", "ivory")
    data = tmp_path / "data.jsonl"
    data.write_text(
        "".join(
            json.dumps({"subject": f"{category} {word}", "body": word, "category": category}) + "\n"
            for word in words
            for category in ("spam", "updates")
        )
    )
    arguments = ["build", "--data", str(data), "--out", str(tmp_path / "corpus"), "--json"]

    first, second = run(*arguments), run(*arguments)

    document = json.loads(first.stdout)
    assert first.exit_code == 0 and second.stdout == first.stdout
    assert {"train", "test", "rejected", "near_duplicates", "categories", "out"} <= set(document)
    assert document["train"] + document["test"] == 18
