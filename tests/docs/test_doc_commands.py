"""Every command line in the documentation is one that the programs understand."""

from __future__ import annotations

import importlib
import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import click
import pytest

ROOT = Path(__file__).parents[2]
FENCE = re.compile(r"^```(\w*)\n(.*?)^```", re.MULTILINE | re.DOTALL)
PROGRAMS = ("mailroom", "tinsmith")


def _command_lines() -> Iterator[tuple[str, str]]:
    pages = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *(ROOT / "docs").rglob("*.md")]
    scripts = (ROOT / "examples").glob("*.py")
    for page in pages:
        for language, block in FENCE.findall(page.read_text("utf-8")):
            if language in ("", "sh", "console"):
                yield from _lines(page, block)
    for script in scripts:
        yield from _lines(script, script.read_text("utf-8").split('"""')[1])


def _lines(page: Path, block: str) -> Iterator[tuple[str, str]]:
    for line in block.splitlines():
        line = line.strip().removeprefix("$ ")
        if line.partition(" ")[0] in PROGRAMS:
            yield str(page.relative_to(ROOT)), line


@pytest.mark.parametrize(("page", "line"), sorted(set(_command_lines())))
def test_a_documented_command_has_the_options_that_it_is_shown_with(page: str, line: str):
    program, name, *words = shlex.split(line.removesuffix("&"), comments=True)
    group = importlib.import_module(f"{program}.cli").main
    command = group.get_command(click.Context(group), name)
    if isinstance(command, click.Group):
        name, *words = words
        command = command.get_command(click.Context(command), name)
    assert command is not None, f"{page}: {program} has no command {name}"

    known = {option for parameter in command.params for option in parameter.opts}

    assert {word.partition("=")[0] for word in words if word.startswith("--")} <= known
    required = {p.opts[0] for p in command.params if p.required and p.param_type_name == "option"}
    assert required <= set(words)
