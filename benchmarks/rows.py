"""What every benchmark has in common: its options, its rows, and how both are shown.

def main() -> None:
    run("training", __doc__, options, measure)
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from machine import machine

COLUMNS = ("ours", "theirs", "ratio", "limit", "share_of_limit")


def row(
    name: str,
    *,
    ours: float | None,
    unit: str,
    theirs: float | None = None,
    ratio: float | None = None,
    limit: float | None = None,
    share_of_limit: float | None = None,
    **more: Any,
) -> dict[str, Any]:
    """One figure of a benchmark; None where a column does not apply.

    Args:
        ratio: ours / theirs unless given; whether more or less is better follows from the unit.
        limit: what the machine or the arithmetic allows, in the same unit.
        share_of_limit: ours / limit unless given.
        more: whatever else the reader of the JSON should know.
    """
    if ratio is None and ours is not None and theirs:
        ratio = ours / theirs
    if share_of_limit is None and ours is not None and limit:
        share_of_limit = ours / limit
    return {
        "name": name,
        "ours": ours,
        "theirs": theirs,
        "ratio": ratio,
        "unit": unit,
        "limit": limit,
        "share_of_limit": share_of_limit,
        **more,
    }


def run(
    benchmark: str,
    description: str | None,
    add_options: Callable[[argparse.ArgumentParser], None],
    measure: Callable[[argparse.Namespace], Iterable[dict[str, Any]]],
) -> None:
    """Read the options, measure, and print a table or, with --json, one document."""
    parser = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add_options(parser)
    parser.add_argument("--quick", action="store_true", help="tiny shapes: does it still work?")
    parser.add_argument("--json", action="store_true", help="one document instead of a table")
    parser.add_argument("--keep", type=Path, help="write the document here as well")
    options = parser.parse_args()
    about = machine()
    rows = []
    for measured in measure(options):
        rows.append({**measured, "machine": about})
        say(line(rows[-1]))
    document = {
        "benchmark": benchmark,
        "quick": options.quick,
        "machine": about,
        "rows": rows,
    }
    if options.keep:
        options.keep.write_text(json.dumps(document, indent=2) + "\n")
    print(json.dumps(document) if options.json else table(rows))


def say(text: str) -> None:
    """Progress, apart from the result."""
    print(text, file=sys.stderr, flush=True)


def line(row: dict[str, Any]) -> str:
    told = [f"{column} {figure(row[column])}" for column in COLUMNS if row[column] is not None]
    return f"{row['name']}: {', '.join(told)} ({row['unit']})"


def table(rows: list[dict[str, Any]]) -> str:
    head = ("", *(column.replace("_", " ") for column in COLUMNS), "unit")
    body = [
        (row["name"], *(figure(row[column]) for column in COLUMNS), row["unit"]) for row in rows
    ]
    widths = [max(map(len, column)) for column in zip(head, *body, strict=True)]
    lines = []
    for name, *figures, unit in [head, *body]:
        cells = [f"{text:>{width}}" for text, width in zip(figures, widths[1:-1], strict=True)]
        lines.append(f"{name:{widths[0]}}  {'  '.join(cells)}  {unit}".rstrip())
    return "\n".join(lines)


def figure(value: float | None) -> str:
    if value is None:
        return "-"
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"
