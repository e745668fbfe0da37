"""mailroom demo: everything, once, on what ships with it."""

from __future__ import annotations

import shlex
import time
from dataclasses import replace
from pathlib import Path

import click

from mailroom.cli.options import base_model_option, home_option, json_option
from mailroom.cli.terminal import terminal


@click.command("demo")
@click.option(
    "--out",
    default="demo",
    show_default=True,
    metavar="DIR",
    help="Corpus, run, adapter and report; an older demo there is replaced.",
)
@base_model_option
@home_option
@json_option
def command(out: str, base_model: str | None, home: str | None, as_json: bool) -> None:
    """Build, train, evaluate, export and triage on the built-in data, offline, in minutes."""
    from mailroom.config import home_directory, served_name
    from mailroom.service.connect import open_service
    from mailroom.training.plan import PRESETS, preset_for

    started = time.monotonic()
    with terminal(as_json) as screen:
        preset = PRESETS[preset_for(base_model)]
        wanted = base_model or preset.base_model
        place = home_directory(home)
        given = {"--base-model": base_model, "--home": home}
        options = "".join(f" {name} {shlex.quote(v)}" for name, v in given.items() if v)
        with open_service(place, wanted, screen.say) as service:
            from mailroom.demo import Demo

            plan = replace(preset, base_model=served_name(wanted))
            demo = Demo(
                service, Path(out), plan, screen, base_model=wanted, home=place, options=options
            )
            result = demo.run(started)
        screen.result(result.as_json(), "")
