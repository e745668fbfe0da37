"""Options that several commands share, and what they come to."""

from __future__ import annotations

import click

from mailroom.config import BUILTIN_BASE_MODEL, HOME_VARIABLE

json_option = click.option(
    "--json", "as_json", is_flag=True, help="Print one JSON document, and nothing else, to stdout."
)
home_option = click.option(
    "--home",
    metavar="FOLDER",
    help=f"Where mailroom keeps its own things (default: ${HOME_VARIABLE}, else the platform's "
    "place for data).",
)
base_model_option = click.option(
    "--base-model",
    metavar="M",
    help="A hub id such as Qwen/Qwen3-0.6B, a folder, NAME=FOLDER, or a name that the service "
    f"knows (default: the built-in {BUILTIN_BASE_MODEL}).",
)
corpus_option = click.option(
    "--corpus", required=True, metavar="DIR", help="A folder that `mailroom build` wrote."
)
model_option = click.option(
    "--model",
    "reference",
    required=True,
    metavar="REF",
    help="A tinker:// path that `mailroom train` printed, or `base` for the untrained model.",
)
taxonomy_option = click.option(
    "--taxonomy",
    metavar="NAME_OR_FILE",
    help="The categories: default, reference, or a TOML file.",
)
free_option = click.option(
    "--free",
    is_flag=True,
    help="Generate every token of the answers, instead of guessing the usual ones and generating "
    "only what differs: the same text, slower.",
)
