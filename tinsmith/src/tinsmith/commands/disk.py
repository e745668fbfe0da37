"""`tinsmith disk`: what takes room, beside a running server or without one."""

from __future__ import annotations

import json
from contextlib import closing
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import click

from tinsmith.commands.options import (
    config_option,
    configured,
    database_option,
    home_option,
    json_option,
)
from tinsmith.domain.errors import InvalidInputError

if TYPE_CHECKING:
    from tinsmith.config import Config
    from tinsmith.ledger.ledger import Ledger
    from tinsmith.service.disk_use import DiskUse


@click.command()
@home_option
@database_option
@config_option
@json_option
def disk(home: Path | None, database: str | None, config_file: Path | None, as_json: bool) -> None:
    """What takes room on the disk of the home folder, by kind and by project."""
    from tinsmith.ledger.ledger import Ledger
    from tinsmith.service.disk_use import measure_disk_use

    config = configured(config_file, home, database)
    if not config.home.is_dir():
        raise InvalidInputError(f"there is no home folder {config.home}; --home names another")
    with closing(Ledger.open(config.ledger)) as ledger:
        use = measure_disk_use(config, ledger)
        quotas = {share.owner: _quota(config, ledger, share.owner) for share in use.projects}
    if as_json:
        told = {**asdict(use), "used": use.by_kind, "home": str(config.home)}
        for share in told["projects"]:
            share["stored_bytes_quota"] = quotas[share["owner"]]
        click.echo(json.dumps(told, indent=2))
    else:
        _print(config, use, quotas)


def _quota(config: Config, ledger: Ledger, owner: str) -> int:
    project = ledger.project(owner)
    own = {} if project is None else project.quotas
    return config.quotas.overlaid(own).stored_bytes


def _print(config: Config, use: DiskUse, quotas: dict[str, int]) -> None:
    click.echo(f"{config.home}")
    stop = f"new work stops below {_shown(use.min_free)}" if use.min_free else "no bound is set"
    click.echo(f"  {'free':24}{_shown(use.free):>12}   {stop}")
    for kind, size in use.by_kind.items():
        note = {
            "snapshots": "for recovery; older ones of a run at most "
            f"{_shown(config.recovery.history_bytes)}, besides the newest "
            f"{config.recovery.keep_snapshots}",
            "aside": "runs that had to leave memory",
        }.get(kind, "")
        click.echo(f"  {kind:24}{_shown(size):>12}   {note}".rstrip())
    for share in use.projects:
        quota = quotas[share.owner]
        of = f"checkpoints, of {_shown(quota)}" if quota else "checkpoints, no quota"
        line = f"  {share.owner:24}{_shown(share.checkpoints):>12}   {of}"
        click.echo(f"{line}; {_shown(share.snapshots)} snapshots")


def _shown(size: int) -> str:
    for unit, power in (("GiB", 3), ("MiB", 2), ("KiB", 1)):
        if size >= 1024**power:
            return f"{size / 1024**power:.1f} {unit}"
    return f"{size} B"
