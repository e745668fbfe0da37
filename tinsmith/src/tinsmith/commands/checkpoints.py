"""`tinsmith checkpoints`: what the server has saved."""

from __future__ import annotations

import json
from pathlib import Path

import click

from tinsmith.commands.options import (
    config_option,
    configured,
    database_option,
    home_option,
    json_option,
)
from tinsmith.domain.projects import LOCAL_PROJECT, check_project_name


@click.group()
def checkpoints() -> None:
    """What the server has saved."""


@checkpoints.command("import")
@click.argument("source", metavar="FOLDER_OR_TAR", type=click.Path(path_type=Path, exists=True))
@click.option("--name", help="Of the checkpoint. Default: its old one, or that of the folder.")
@click.option(
    "--model",
    metavar="ID_OR_DIR",
    help="The adapter's base model, as for serve. Default: the one that it names.",
)
@click.option(
    "--project", default=LOCAL_PROJECT, show_default=True, help="Which it shall belong to."
)
@home_option
@database_option
@config_option
@json_option
def import_(
    source: Path,
    name: str | None,
    model: str | None,
    project: str,
    home: Path | None,
    database: str | None,
    config_file: Path | None,
    as_json: bool,
) -> None:
    """Bring a downloaded checkpoint back, or a PEFT adapter in, to train on from it.

    A server may be running on the home folder or not. A training checkpoint that was downloaded as
    a tar.gz goes on exactly where it was, optimizer and all. A PEFT adapter starts with a fresh
    optimizer; whatever its lora_alpha, it computes the same as before.
    """
    from tinsmith.engine.checkpoint_import import import_checkpoint

    check_project_name(project)
    config = configured(config_file, home, database)
    imported = import_checkpoint(config, source, owner=project, name=name, model=model)
    if as_json:
        click.echo(json.dumps(imported.to_json(), indent=2))
    else:
        with_what = "with" if imported.with_optimizer else "without"
        click.echo(imported.address)
        click.echo(
            f"rank {imported.lora.rank} on {imported.base_model}, {with_what} optimizer state",
            err=True,
        )
