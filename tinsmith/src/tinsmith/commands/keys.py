"""`tinsmith keys`: who may come in."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import click

from tinsmith.commands.ledgers import author, ledger_options, open_ledger
from tinsmith.commands.options import json_option
from tinsmith.domain.projects import LOCAL_PROJECT, ApiKey, Role


@click.group()
def keys() -> None:
    """Who may come in. A running server notices within a second."""


@keys.command()
@click.option(
    "--project",
    default=LOCAL_PROJECT,
    show_default=True,
    help="What the key opens; made if there is none of that name.",
)
@click.option(
    "--role",
    type=click.Choice([role.value for role in Role]),
    default=Role.OWNER.value,
    show_default=True,
    help="owner: everything in the project; member: train, sample, save; read-only: look and "
    "download.",
)
@click.option("--label", default="", help="Whose key it is, or what it is for.")
@click.option("--expires-days", type=float, help="Default: it does not expire.")
@ledger_options
@json_option
def create(
    project: str,
    role: str,
    label: str,
    expires_days: float | None,
    home: Path | None,
    database: str | None,
    config_file: Path | None,
    as_json: bool,
) -> None:
    """Make a key and print it. It is kept as a hash only, so this is the one time to see it."""
    from tinsmith.service.keys import Keys

    with open_ledger(home, database, config_file) as ledger:
        is_first = not ledger.has_keys()
        key, text = Keys(ledger, author()).create(
            project, Role(role), label=label, expires_days=expires_days
        )
    if as_json:
        click.echo(json.dumps({"key": text, **_written(key)}, indent=2))
        return
    click.echo(text)
    click.echo(
        f"{key.key_id}: {key.role} of project {key.project}. This is the one time the key is "
        "shown.",
        err=True,
    )
    if is_first:
        click.echo(
            "It is the first: from now on every client shows a key, on this machine too. What was "
            f"made without one belongs to project {LOCAL_PROJECT}.",
            err=True,
        )


@keys.command("list")
@ledger_options
@json_option
def list_(home: Path | None, database: str | None, config_file: Path | None, as_json: bool) -> None:
    """All keys, revoked and expired ones too."""
    from tinsmith.service.keys import Keys

    with open_ledger(home, database, config_file) as ledger:
        found = Keys(ledger, author()).list()
    if as_json:
        click.echo(json.dumps([_written(key) for key in found], indent=2))
        return
    for key in found:
        click.echo(
            f"{key.key_id}  {key.project:16} {key.role:9}  {_state(key):24} "
            f"used {_day(key.last_used_at, 'never'):10}  {key.label}".rstrip()
        )


@keys.command()
@click.argument("key_id")
@ledger_options
def revoke(key_id: str, home: Path | None, database: str | None, config_file: Path | None) -> None:
    """Take a key back for good, with the tokens that its holder got for it."""
    from tinsmith.service.keys import Keys

    with open_ledger(home, database, config_file) as ledger:
        key = Keys(ledger, author()).revoke(key_id)
    click.echo(f"{key.key_id} of project {key.project} is revoked", err=True)


def _written(key: ApiKey) -> dict[str, Any]:
    times = ("created_at", "expires_at", "last_used_at", "revoked_at")
    return {
        "key_id": key.key_id,
        "project": key.project,
        "role": key.role,
        "label": key.label,
        **{name: _iso(getattr(key, name)) for name in times},
        "is_good": key.is_good_at(datetime.now(UTC)),
    }


def _iso(moment: datetime | None) -> str | None:
    return None if moment is None else moment.isoformat()


def _day(moment: datetime | None, otherwise: str) -> str:
    return otherwise if moment is None else f"{moment:%Y-%m-%d}"


def _state(key: ApiKey) -> str:
    if key.revoked_at is not None:
        return f"revoked {_day(key.revoked_at, '')}"
    if key.expires_at is None:
        return "good"
    is_good = key.is_good_at(datetime.now(UTC))
    return f"{'good until' if is_good else 'expired'} {_day(key.expires_at, '')}"
