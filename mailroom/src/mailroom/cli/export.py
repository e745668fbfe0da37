"""mailroom export: a trained adapter as files."""

from __future__ import annotations

from pathlib import Path

import click

from mailroom.cli.options import base_model_option, home_option, json_option, taxonomy_option
from mailroom.cli.terminal import terminal


@click.command("export")
@click.option(
    "--model",
    "reference",
    required=True,
    metavar="tinker://...",
    help="The path that `mailroom train` printed.",
)
@click.option("--out", required=True, metavar="DIR", help="A new folder, or an older export.")
@click.option("--archive", is_flag=True, help="Pack the folder as DIR.tar.gz too.")
@click.option("--merged", is_flag=True, help="Add the adapter to the base model: DIR/merged.")
@click.option(
    "--merged-dtype",
    default="float32",
    show_default=True,
    type=click.Choice(["float32", "bfloat16", "float16"]),
    help="float32 loses nothing.",
)
@click.option("--push", "repository", metavar="OWNER/NAME", help="Publish on the Hugging Face hub.")
@click.option("--public", is_flag=True, help="Make a new hub repository public, not private.")
@base_model_option
@taxonomy_option
@home_option
@json_option
def command(
    reference: str,
    out: str,
    archive: bool,
    merged: bool,
    merged_dtype: str,
    repository: str | None,
    public: bool,
    base_model: str | None,
    taxonomy: str | None,
    home: str | None,
    as_json: bool,
) -> None:
    """Download an adapter as a PEFT folder with a model card."""
    from mailroom.config import BUILTIN_BASE_MODEL, home_directory
    from mailroom.export.folder import check_out
    from mailroom.export.merged import check_installed
    from mailroom.export.push import check_push
    from mailroom.service.address import Address
    from mailroom.service.connect import open_service
    from mailroom.service.remembered import recall
    from mailroom.taxonomy import Taxonomy

    with terminal(as_json) as screen:
        folder = Path(out)
        Address.parse(reference)
        check_out(folder)
        if merged:
            check_installed()
        if repository:
            check_push(repository)
        chosen = Taxonomy.load(taxonomy) if taxonomy else None
        place = home_directory(home)
        known = recall(place, reference)
        choice = base_model or known.get("base_model")
        with open_service(place, choice or BUILTIN_BASE_MODEL, screen.say) as service:
            from mailroom.export.export import export

            done = export(
                service,
                reference,
                folder,
                base_model=choice,
                taxonomy=chosen,
                scores=known.get("scores", {}).get(reference, {}),
                merged_dtype=merged_dtype if merged else None,
                archive=archive,
                repository=repository,
                is_public=public,
                say=screen.say,
            )
        screen.result(done.as_json(), done.as_text())
