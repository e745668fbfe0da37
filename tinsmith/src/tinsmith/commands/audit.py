"""`tinsmith audit`: who did what."""

from __future__ import annotations

import json
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path

import click

from tinsmith.commands.ledgers import ledger_options, open_ledger
from tinsmith.commands.options import json_option


@click.command()
@click.option("--project", help="Default: all.")
@click.option("--since", type=click.DateTime(), help="UTC, such as 2026-11-22.")
@click.option(
    "--limit", type=click.IntRange(1), default=1000, show_default=True, help="The newest so many."
)
@ledger_options
@json_option
def audit(
    project: str | None,
    since: datetime | None,
    limit: int,
    home: Path | None,
    database: str | None,
    config_file: Path | None,
    as_json: bool,
) -> None:
    """Who did what: requests that changed something or were refused, and these commands."""
    with open_ledger(home, database, config_file) as ledger:
        entries = ledger.audit(
            project, since=None if since is None else since.replace(tzinfo=UTC), limit=limit
        )
    if as_json:
        told = [{**asdict(entry), "at": entry.at.isoformat()} for entry in entries]
        click.echo(json.dumps(told, indent=2))
        return
    for entry in entries:
        who = entry.key_id or "no key"
        click.echo(
            f"{entry.at:%Y-%m-%d %H:%M:%S}  {entry.status}  {entry.project or '-':16} {who:20} "
            f"{entry.action:22} {entry.object or '-'}  from {entry.address or '-'}"
        )
