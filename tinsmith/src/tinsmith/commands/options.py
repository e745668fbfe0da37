"""Options that several commands take."""

from __future__ import annotations

from pathlib import Path

import click

home_option = click.option(
    "--home", type=click.Path(path_type=Path, file_okay=False), help="Ledger and checkpoints."
)
config_option = click.option(
    "--config", "config_file", type=click.Path(path_type=Path), help="A TOML file of settings."
)
json_option = click.option("--json", "as_json", is_flag=True, help="One JSON document.")
