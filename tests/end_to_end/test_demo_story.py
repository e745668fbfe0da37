"""The demo, with a run too short to learn anything: what it prints, leaves and remembers."""

from __future__ import annotations

import json
import shlex
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

import click
import pytest
from mailroom.cli.main import main
from mailroom.demo import Demo, DemoResult
from mailroom.service.remembered import recall
from mailroom.training.plan import PRESETS

PLAN = replace(PRESETS["tiny"], num_examples=8, num_epochs=1, rank=2)


@dataclass
class Screen:
    shown: list[str] = field(default_factory=list)

    def say(self, line: str) -> None:
        pass

    def show(self, text: str) -> None:
        self.shown.append(text)

    @contextmanager
    def progress(self, label: str) -> Iterator[Callable[[int, int, str], None]]:
        yield lambda done, total, words: None


@pytest.fixture(scope="module")
def told(service, home, tmp_path_factory) -> tuple[DemoResult, str, Path]:
    out, screen = tmp_path_factory.mktemp("demo") / "with a space", Screen()
    demo = Demo(
        service,
        out,
        PLAN,
        screen,
        base_model=PLAN.base_model,
        home=home,
        num_test=7,
        options=f" --home {shlex.quote(str(home))}",
    )
    return demo.run(time.monotonic()), "\n".join(screen.shown), out


def test_the_commands_that_the_demo_prints_are_complete(told):
    _, text, out = told
    lines = [line.split("$ ", 1)[1] for line in text.splitlines() if line.startswith("  $ ")]

    names = []
    for line in lines:
        program, name, *words = shlex.split(line)
        assert program == "mailroom"
        command = main.get_command(click.Context(main), name)
        assert command is not None
        command.make_context(name, words).close()  # ends the test if an option is missing
        names.append(name)
    assert names == ["build", "evaluate", "train", "evaluate", "export", "triage"]
    assert f"mailroom triage {shlex.quote(str(out / 'mail'))} " in text
    assert len(list((out / "mail").glob("*.eml"))) == 3


def test_a_later_export_finds_the_scores_and_a_later_report_the_run(told, home):
    result, _, out = told
    known = recall(home, result.trained.model)

    assert known["scores"][result.trained.model]["after"]["examples"] == 7
    assert Path(known["run"]) == (out / "run").resolve()


def test_what_is_exported_names_no_folder_of_this_machine(told, tmp_path):
    folder = told[0].exported.export.folder

    for name in ("README.md", "mailroom.json", "adapter_config.json", "taxonomy.toml"):
        assert str(tmp_path.parent.parent) not in (folder / name).read_text()
    assert json.loads((folder / "mailroom.json").read_text())["training"]["corpus"] == "builtin"
