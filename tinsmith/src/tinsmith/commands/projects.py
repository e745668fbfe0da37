"""`tinsmith projects`: what each has coming to it."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import click

from tinsmith.commands.ledgers import author, ledger_options, open_ledger
from tinsmith.commands.options import json_option
from tinsmith.domain.audit import AuditEntry
from tinsmith.domain.errors import InvalidInputError
from tinsmith.domain.projects import Project, check_project_name, check_weight


@click.group()
def projects() -> None:
    """What each project has coming to it. A running server notices within some seconds."""


@projects.command("set")
@click.argument("name")
@click.option(
    "--weight",
    type=float,
    required=True,
    help="Its share of an engine while others want it too: 3 has three times what 1 has.",
)
@ledger_options
def set_(
    name: str, weight: float, home: Path | None, database: str | None, config_file: Path | None
) -> None:
    """Change a project, which is made if there is none of that name."""
    try:
        check_project_name(name)
        check_weight(weight)
    except InvalidInputError as error:
        raise click.UsageError(str(error)) from error
    noted = AuditEntry(datetime.now(UTC), name, None, author(), "project_change", name, 200)
    with open_ledger(home, database, config_file) as ledger:
        changed = ledger.change_project(name, weight=weight, noted=noted)
    click.echo(f"{changed.name} has weight {changed.weight:g}", err=True)


@projects.command("list")
@ledger_options
@json_option
def list_(home: Path | None, database: str | None, config_file: Path | None, as_json: bool) -> None:
    """All that have a key or were ever changed; any other has weight 1."""
    with open_ledger(home, database, config_file) as ledger:
        found = ledger.projects()
    if as_json:
        click.echo(json.dumps([_written(one) for one in found], indent=2))
        return
    for one in found:
        click.echo(f"{one.name:24} weight {one.weight:g}")


def _written(project: Project) -> dict[str, Any]:
    return {
        "name": project.name,
        "created_at": project.created_at.isoformat(),
        "weight": project.weight,
        "quotas": dict(project.quotas),
    }
