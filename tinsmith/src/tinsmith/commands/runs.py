"""`tinsmith runs`: what runs have gone through, and going back to it. Beside a running server or
without one."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

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
    from tinsmith.domain.records import Run
    from tinsmith.ledger.entries import LoggedOp
    from tinsmith.ledger.ledger import Ledger

model_option = click.option(
    "--model",
    metavar="ID_OR_DIR",
    help="The run's base model, as for serve. Default: the one that the run names.",
)


@click.group()
def runs() -> None:
    """What runs have gone through, and going back to it."""


@runs.command("list")
@click.option("--limit", default=50, show_default=True, type=click.IntRange(1, 10_000))
@home_option
@database_option
@config_option
@json_option
def list_(
    limit: int, home: Path | None, database: str | None, config_file: Path | None, as_json: bool
) -> None:
    """Runs of all projects, last used first."""
    with _ledger(configured(config_file, home, database)) as ledger:
        found, total = ledger.runs(None, limit=limit)
        entries = [_about(ledger, run) for run in found]
    if as_json:
        click.echo(json.dumps({"runs": entries, "total": total}, indent=2))
        return
    for entry in entries:
        click.echo(
            f"{entry['run_id']}  {entry['state']:9} {entry['steps']:>6} steps  "
            f"rank {entry['rank']:<3} {entry['base_model']}  {entry['owner']}"
        )
    if total > len(entries):
        click.echo(f"and {total - len(entries)} more; --limit shows them", err=True)


@runs.command()
@click.argument("run_id", metavar="RUN")
@home_option
@database_option
@config_option
@json_option
def log(
    run_id: str,
    home: Path | None,
    database: str | None,
    config_file: Path | None,
    as_json: bool,
) -> None:
    """What happened to a run, request by request, with losses and gradient norms."""
    from tinsmith.ledger.coverage import find_run

    with _ledger(configured(config_file, home, database)) as ledger:
        run = find_run(ledger, run_id)
        about = _about(ledger, run)
        history = ledger.history(run_id)
    ops = list(_lines(history))
    if as_json:
        click.echo(json.dumps({**about, "ops": ops}, indent=2))
        return
    for op in ops:
        metrics = "  ".join(f"{name} {value:.6g}" for name, value in op["metrics"].items())
        took = "" if op["engine_s"] is None else f"{op['engine_s'] * 1000:9.1f} ms"
        step = "" if op["step"] is None else f"step {op['step']}"
        click.echo(f"{op['seq_id']:>7} {op['kind']:20} {op['state']:8} {step:10}{took:13}{metrics}")
    covered = about["covered_from_step"]
    reach = "its history is kept no longer" if covered is None else f"forks from step {covered} on"
    click.echo(f"{run.run_id}: {about['state']}, {about['steps']} steps, {reach}", err=True)
    if run.inexact is not None:
        click.echo(f"inexact: {run.inexact}", err=True)


@runs.command()
@click.argument("run_id", metavar="RUN")
@click.option("--at", "step", type=int, required=True, metavar="STEP", help="0: as it was made.")
@click.option("--name", help="Of the checkpoint. Default: step-STEP.")
@model_option
@home_option
@database_option
@config_option
@json_option
def fork(
    run_id: str,
    step: int,
    name: str | None,
    model: str | None,
    home: Path | None,
    database: str | None,
    config_file: Path | None,
    as_json: bool,
) -> None:
    """Start a new run from what a run was after a step.

    Prints the address of a training checkpoint, optimizer and all, under a run of its own:
    create_training_client_from_state_with_optimizer(ADDRESS) goes on from there. The run that is
    forked stays as it is.
    """
    from tinsmith.engine import time_travel

    config = configured(config_file, home, database)
    with _progress() as progress:
        forked = time_travel.fork(config, run_id, step, name=name, model=model, progress=progress)
    if as_json:
        told = {**asdict(forked), "address": str(forked.address), "run_id": forked.address.run_id}
        click.echo(json.dumps(told, indent=2))
        return
    click.echo(str(forked.address))
    if not forked.is_exact:
        click.echo("inexact: some of what was repeated gave other bits than at first", err=True)


@runs.command()
@click.argument("run_id", metavar="RUN")
@model_option
@home_option
@database_option
@config_option
@json_option
def verify(
    run_id: str,
    model: str | None,
    home: Path | None,
    database: str | None,
    config_file: Path | None,
    as_json: bool,
) -> None:
    """Do a run again, as far back as its log reaches, and compare all of it bit for bit.

    Exits with 1 if anything differs: another machine, device or version computes here than did.
    """
    from tinsmith.engine import time_travel

    config = configured(config_file, home, database)
    with _progress() as progress:
        found = time_travel.verify(config, run_id, model=model, progress=progress)
    if as_json:
        told = {"run_id": run_id, **asdict(found), "is_exact": found.is_exact}
        click.echo(json.dumps(told, indent=2))
    else:
        verdict = "the same, bit for bit" if found.is_exact else "NOT the same"
        click.echo(
            f"steps {found.first_step} to {found.last_step}: {found.num_repeated} requests "
            f"repeated and {found.num_snapshots} snapshots compared in {found.seconds:.1f} s: "
            f"{verdict}"
        )
        for what, seq_ids in (
            ("requests", found.differing),
            ("snapshots", found.differing_snapshots),
        ):
            if seq_ids:
                click.echo(f"{what} that differ: {', '.join(map(str, seq_ids))}")
    sys.exit(0 if found.is_exact else 1)


@contextmanager
def _ledger(config: Config) -> Iterator[Ledger]:
    from tinsmith.ledger.ledger import Ledger

    if not config.home.is_dir():
        raise InvalidInputError(f"there is no home folder {config.home}; --home names another")
    with closing(Ledger.open(config.ledger)) as ledger:
        yield ledger


def _about(ledger: Ledger, run: Run) -> dict[str, Any]:
    from tinsmith.ledger.coverage import first_step, steps_of

    history = ledger.history(run.run_id)
    state = "corrupted" if run.is_corrupted else "ended" if run.is_ended else "live"
    return {
        "run_id": run.run_id,
        "owner": run.owner,
        "base_model": run.base_model,
        "rank": run.lora.rank,
        "state": state,
        "inexact": run.inexact,
        "steps": len(steps_of(history)),
        "covered_from_step": first_step(history, ledger.snapshots(run.run_id)),
    }


def _lines(history: list[LoggedOp]) -> Iterator[dict[str, Any]]:
    step = 0
    for op in history:
        is_step = op.kind == "optim_step" and op.is_failed is False
        step += is_step
        state = {None: "waiting", True: "failed", False: "done"}[op.is_failed]
        yield {
            "seq_id": op.seq_id,
            "kind": op.kind,
            "state": state,
            "step": step if is_step else None,
            "metrics": dict(op.execution.metrics) if op.execution else {},
            "engine_s": op.execution.engine_s if op.execution else None,
            "appended_at": op.appended_at.isoformat(),
            "settled_at": None if op.settled_at is None else op.settled_at.isoformat(),
        }


@contextmanager
def _progress() -> Iterator[Any]:
    """A line on standard error that counts, if somebody looks."""
    is_watched = sys.stderr.isatty()

    def show(done: int, in_all: int) -> None:
        if is_watched:
            click.echo(f"\r{done} of {in_all} requests repeated", nl=False, err=True)

    yield show
    if is_watched:
        click.echo("\r" + " " * 50 + "\r", nl=False, err=True)
