"""Options that several commands take."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import click

from tinsmith.config import DATABASE_VARIABLE, Config

home_option = click.option(
    "--home", type=click.Path(path_type=Path, file_okay=False), help="Ledger and checkpoints."
)
database_option = click.option(
    "--database",
    envvar=DATABASE_VARIABLE,
    metavar="URL",
    help="postgresql://USER@HOST/NAME instead of a SQLite file in the home folder; "
    f"also as {DATABASE_VARIABLE}.",
)
config_option = click.option(
    "--config", "config_file", type=click.Path(path_type=Path), help="A TOML file of settings."
)
json_option = click.option("--json", "as_json", is_flag=True, help="One JSON document.")


def configured(config_file: Path | None, home: Path | None, database: str | None) -> Config:
    """The settings, with what these options say instead."""
    config = Config.load(config_file)
    return replace(config, home=home or config.home, database=database or config.database)
