"""`tinsmith projects`: what each has coming to it."""

from __future__ import annotations

import json
from dataclasses import fields
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import click

from tinsmith.commands.ledgers import author, ledger_options, open_ledger
from tinsmith.commands.options import json_option
from tinsmith.config import Quotas
from tinsmith.domain.audit import AuditEntry
from tinsmith.domain.errors import InvalidInputError
from tinsmith.domain.projects import Project, check_project_name, check_weight

MAX_DIGITS = 15
"""Of a quota: JSON keeps so many exactly."""


@click.group()
def projects() -> None:
    """What each project has coming to it. A running server notices within some seconds."""


@projects.command("set")
@click.argument("name")
@click.option(
    "--weight",
    type=float,
    help="Its share of an engine while others want it too: 3 has three times what 1 has.",
)
@click.option(
    "--quota",
    "quotas",
    multiple=True,
    metavar="NAME=NUMBER",
    help="What it may have, by the names of the settings under quotas; 0: as much as there is; "
    "NAME= takes the server's setting again. Repeatable.",
)
@ledger_options
def set_(
    name: str,
    weight: float | None,
    quotas: tuple[str, ...],
    home: Path | None,
    database: str | None,
    config_file: Path | None,
) -> None:
    """Change a project, which is made if there is none of that name."""
    try:
        check_project_name(name)
        if weight is not None:
            check_weight(weight)
        changes = dict(map(_read_quota, quotas))
    except InvalidInputError as error:
        raise click.UsageError(str(error)) from error
    if weight is None and not changes:
        raise click.UsageError("say what to set: --weight or --quota")
    noted = AuditEntry(datetime.now(UTC), name, None, author(), "project_change", name, 200)
    with open_ledger(home, database, config_file) as ledger:
        changed = ledger.change_project(name, weight=weight, quotas=changes, noted=noted)
    click.echo(f"{changed.name} has {_told(changed)}", err=True)


def _read_quota(text: str) -> tuple[str, int | None]:
    name, is_there, number = text.partition("=")
    known = [field.name for field in fields(Quotas)]
    if name not in known or not is_there:
        raise InvalidInputError(
            f"{text!r} is no quota; it must be NAME=NUMBER, and the names are {', '.join(known)}"
        )
    if not number:
        return name, None
    if not (number.isascii() and number.isdigit() and len(number) <= MAX_DIGITS):
        raise InvalidInputError(f"quota {name} must be a whole number, 0 or more, got {number!r}")
    return name, int(number)


@projects.command("list")
@ledger_options
@json_option
def list_(home: Path | None, database: str | None, config_file: Path | None, as_json: bool) -> None:
    """All that have a key or were ever changed, with the quotas that are their own; any other has
    weight 1 and the quotas of the settings."""
    with open_ledger(home, database, config_file) as ledger:
        found = ledger.projects()
    if as_json:
        click.echo(json.dumps([_written(one) for one in found], indent=2))
        return
    for one in found:
        click.echo(f"{one.name:24} {_told(one)}")


def _told(project: Project) -> str:
    own = (f"{name}={number:.0f}" for name, number in sorted(project.quotas.items()))
    return "  ".join([f"weight {project.weight:g}", *own])


def _written(project: Project) -> dict[str, Any]:
    return {
        "name": project.name,
        "created_at": project.created_at.isoformat(),
        "weight": project.weight,
        "quotas": dict(project.quotas),
    }
