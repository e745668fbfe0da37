"""The tables of compatibility name all that the installed SDK has, and tests that exist."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import click
import pytest
import tinker
from tinker.cli.__main__ import main_cli
from tinsmith.api.routes import TINKER_ROUTES

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "reference" / "compatibility.md").read_text("utf-8")
SDK = Path(tinker.__file__).parent
CLIENTS = ("ServiceClient", "TrainingClient", "SamplingClient", "RestClient", "AdminClient")


def rows(heading: str) -> list[list[str]]:
    section = PAGE.partition(f"\n## {heading}\n")[2].partition("\n## ")[0]
    lines = [line for line in section.splitlines() if line.startswith("|")]
    assert len(lines) > 2, heading
    return [[cell.strip() for cell in line.strip("|").split(" | ")] for line in lines[2:]]


def names(cell: str) -> set[str]:
    return set(re.findall(r"`([^`]+)`", cell))


def shape(path: str) -> str:
    """The path with nameless parameters; a checkpoint's id is two segments."""
    path = path.removeprefix("/api/v1/").strip("/").replace("{checkpoint_id}", "{kind}/{name}")
    return re.sub(r"\{[^}]*\}", "{}", path)


def commands(group: click.Group, prefix: str) -> Iterator[str]:
    context = click.Context(group)
    for name in group.list_commands(context):
        command = group.get_command(context, name)
        if isinstance(command, click.Group):
            yield from commands(command, f"{prefix} {name}")
        else:
            yield f"{prefix} {name}"


@pytest.mark.parametrize("client", CLIENTS)
def test_every_public_method_has_a_row(client: str):
    methods = {name for name in dir(getattr(tinker, client)) if not name.startswith("_")}
    methods -= {name for name in methods if name.removesuffix("_async") in methods - {name}}

    assert {name for row in rows(client) for name in names(row[0])} == {
        f"{client}.{name}" for name in methods
    }


def test_every_endpoint_of_the_sdk_and_of_ours_has_a_row():
    described = {shape(name) for row in rows("Endpoints") for name in names(row[1])}
    asked = {
        shape(path)
        for file in SDK.rglob("*.py")
        if "_test" not in file.name
        for path in re.findall(r'"(/api/v1/[^"\s]+)"', file.read_text("utf-8"))
    }
    served = {shape(route.path) for route in TINKER_ROUTES}  # type: ignore[attr-defined]

    assert len(asked) > 40
    assert described == asked | served


def test_an_endpoint_is_served_unless_its_row_says_no():
    served = {shape(route.path) for route in TINKER_ROUTES}  # type: ignore[attr-defined]
    for _, path, here, _ in rows("Endpoints"):
        is_served = shape(path.strip("`")) in served
        assert is_served is not here.startswith("**no**"), path


def test_every_command_has_a_row():
    described = {name for row in rows("The `tinker` command") for name in names(row[0])}

    assert described == set(commands(main_cli, "tinker"))


def test_every_type_has_a_row():
    listed = [name for row in rows("Types") for name in sorted(names(row[0]))]

    assert sorted(listed) == sorted(name for name in dir(tinker.types) if name[0].isupper())


def test_every_test_named_exists_and_every_claim_names_one():
    existing = {
        f"{file.name}::{name}"
        for folder in (ROOT / "tests", ROOT / "tinsmith" / "tests")
        for file in folder.rglob("test_*.py")
        for name in re.findall(r"^def (test_\w+)", file.read_text("utf-8"), re.MULTILINE)
    }
    headings = [*CLIENTS, "The `tinker` command", "Endpoints", "Types", "Behaviour"]
    for row in (row for heading in headings for row in rows(heading)):
        assert names(row[-1]) or row[-2].startswith("**client**") or "**client**" in row[-1], row
        assert {name for name in names(row[-1]) if "::" in name} <= existing, row
