"""mailroom triage: mail to four steps each. Nothing is changed anywhere."""

from __future__ import annotations

import sys

import click

from mailroom.cli.options import (
    base_model_option,
    free_option,
    home_option,
    json_option,
    model_option,
    taxonomy_option,
)
from mailroom.cli.terminal import terminal


@click.command("triage")
@click.argument("places", nargs=-1, required=True, metavar="PATH...")
@model_option
@base_model_option
@taxonomy_option
@click.option(
    "--threshold",
    default=0.0,
    show_default=True,
    type=click.FloatRange(0.0, 1.0),
    help="Mail that the model is less sure of is left to you.",
)
@free_option
@home_option
@json_option
def command(
    places: tuple[str, ...],
    reference: str,
    base_model: str | None,
    taxonomy: str | None,
    threshold: float,
    free: bool,
    home: str | None,
    as_json: bool,
) -> None:
    """Read mail and print four steps for each message.

    PATH is an .eml file, a folder of them, mbox:FILE, maildir:FOLDER, or - for standard input.
    Nothing is changed, moved or sent.
    """
    from collections.abc import Iterator

    from mailroom.config import BUILTIN_BASE_MODEL, home_directory
    from mailroom.decision.model import BASE, check_reference, find_model, open_predictor
    from mailroom.service.connect import open_service
    from mailroom.service.remembered import recall
    from mailroom.sources.open import open_source
    from mailroom.taxonomy import Taxonomy
    from mailroom.triage.report import as_json as document
    from mailroom.triage.report import print_human
    from mailroom.triage.triage import TriagedMessage, triage

    with terminal(as_json) as screen:
        messages = open_source(places, sys.stdin.buffer)
        check_reference(reference)
        chosen = Taxonomy.load(taxonomy) if taxonomy else None
        if reference == BASE and chosen is None:
            chosen = Taxonomy.load("default")
        place = home_directory(home)
        wanted = base_model or recall(place, reference).get("base_model") or BUILTIN_BASE_MODEL
        with open_service(place, wanted, screen.say) as service:
            model = find_model(
                service, reference, base_model=wanted, taxonomy=chosen, say=screen.say
            )
            with service.session() as session, screen.counter("mail") as count:
                predictor = open_predictor(service, session, model, free=free)
                triaged = triage(messages, predictor, model.taxonomy, threshold=threshold)

                def counted() -> Iterator[TriagedMessage]:
                    for done, one in enumerate(triaged, start=1):
                        if not as_json:
                            screen.clear()  # it is printed at once
                        yield one
                        count(done)
                    screen.clear()

                if as_json:
                    screen.result(document(counted()), "")
                else:
                    print_human(counted(), model.taxonomy, screen.out)
