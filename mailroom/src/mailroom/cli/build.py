"""mailroom build: labelled mail to a corpus folder."""

from __future__ import annotations

import click

from mailroom.cli.options import json_option
from mailroom.cli.terminal import terminal


@click.command("build")
@click.option(
    "--data",
    "source",
    required=True,
    metavar="SOURCE",
    help="builtin, hf:OWNER/NAME[:split], or a CSV, JSONL or Parquet file (.gz too).",
)
@click.option("--out", required=True, metavar="DIR", help="The corpus folder to write.")
@click.option(
    "--test-data", metavar="FILE", help="A test part of its own, instead of splitting SOURCE."
)
@click.option("--limit", type=click.IntRange(1), metavar="N", help="The first N rows to train on.")
@click.option("--test-size", type=click.IntRange(1), metavar="N", help="At most N rows to test on.")
@click.option(
    "--taxonomy",
    default="default",
    show_default=True,
    metavar="NAME_OR_FILE",
    help="The categories: default, reference, or a TOML file.",
)
@click.option("--seed", default=0, show_default=True, help="What is drawn follows it alone.")
@click.option("--subject-column", default="subject", show_default=True, metavar="NAME")
@click.option("--body-column", default="body", show_default=True, metavar="NAME")
@click.option("--category-column", default="category", show_default=True, metavar="NAME")
@click.option("--strict", is_flag=True, help="A bad row is an error, and nothing is written.")
@json_option
def command(
    source: str,
    out: str,
    test_data: str | None,
    limit: int | None,
    test_size: int | None,
    taxonomy: str,
    seed: int,
    subject_column: str,
    body_column: str,
    category_column: str,
    strict: bool,
    as_json: bool,
) -> None:
    """Make prompt-completion pairs of labelled mail, in a training and a test part.

    No near-duplicate stands on both sides; bad rows are listed, never silently dropped.
    """
    from mailroom.corpus.build import build
    from mailroom.corpus.rows import Columns
    from mailroom.taxonomy import Taxonomy

    with terminal(as_json) as screen:
        with screen.counter("row") as count:
            summary = build(
                source,
                out,
                taxonomy=Taxonomy.load(taxonomy),
                test_data=test_data,
                limit=limit,
                test_size=test_size,
                seed=seed,
                columns=Columns(subject=subject_column, body=body_column, category=category_column),
                strict=strict,
                on_row=count,
            )
        for warning in summary.warnings:
            screen.say(warning)
        screen.result(
            summary.to_json(),
            f"{summary.train} mails to train on, {summary.test} to test with "
            f"({summary.apart} unlike any in training)\n"
            f"{summary.rejected} rejected, {summary.near_duplicates} near-duplicates, "
            f"{summary.left_out} left out for standing on both sides\n"
            f"{summary.page}",
        )
