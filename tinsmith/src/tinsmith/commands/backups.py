"""`tinsmith backup` and `tinsmith restore`."""

from __future__ import annotations

import json
from pathlib import Path

import click

from tinsmith.commands.ledgers import ledger_options
from tinsmith.commands.options import configured, database_option, json_option


@click.command()
@click.argument("target", metavar="TO", type=click.Path(path_type=Path))
@ledger_options
@json_option
def backup(
    target: Path,
    home: Path | None,
    database: str | None,
    config_file: Path | None,
    as_json: bool,
) -> None:
    """Copy ledger, checkpoints, snapshots and secrets to a new folder or .tar file.

    A server may be running, and people may be training. The copy is of one moment, is read again
    before it gets its name, and holds secrets and people's data: keep it as private as the home
    folder.
    """
    from tinsmith.backups.backup import back_up

    config = configured(config_file, home, database)
    done = back_up(config.home, config.ledger, target)
    if as_json:
        click.echo(json.dumps({"backup": str(target), **done.to_json()}, indent=2))
    else:
        click.echo(target)
        click.echo(
            f"{done.num_checkpoints} checkpoints and {done.num_snapshots} snapshots, "
            f"{done.num_bytes / 2**20:,.1f} MiB in all",
            err=True,
        )
    for name in done.left_out:
        click.echo(f"left out, for its files are missing or damaged: {name}", err=True)


@click.command()
@click.argument("source", metavar="FROM", type=click.Path(path_type=Path, exists=True))
@click.option(
    "--home",
    required=True,
    metavar="NEW",
    type=click.Path(path_type=Path, file_okay=False),
    help="A folder that is not there yet, or an empty one.",
)
@database_option
@json_option
def restore(source: Path, home: Path, database: str | None, as_json: bool) -> None:
    """Make a home folder of a backup; then serve from it.

    Every file is compared with its digest first. With --database the ledger goes into that empty
    PostgreSQL database, wherever it was when the backup was made.
    """
    from tinsmith.backups.restore import restore as restore_backup

    done = restore_backup(source, home, database or "")
    if as_json:
        click.echo(json.dumps({"home": str(home), **done.to_json()}, indent=2))
    else:
        click.echo(home)
        click.echo(f"{done.num_files} files of the backup of {done.created_at}", err=True)
