"""Every benchmark, one after the other; fails if one fails or answers in another form.

make bench NAME=all ARGS=--quick
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from rows import COLUMNS, row, run, say

BENCHMARKS = (
    *("startup", "training", "ablation", "builtin", "overhead", "tenants", "growth"),
    *("sampling", "decode", "clients", "triage", "agreement", "first_token", "fairness"),
    "futures",
)
NEEDS_DATA = "reference_accuracy"
KEYS = {"name", "unit", "machine", *COLUMNS}


def options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--data", help=f"a labelled CSV for {NEEDS_DATA}, which is skipped without")
    parser.add_argument("--keep-in", type=Path, help="a folder for the document of each benchmark")


def measure(options: argparse.Namespace) -> Iterator[dict[str, Any]]:
    passed_on = ["--quick"] if options.quick else []
    if options.data is None:
        say(f"{NEEDS_DATA}: skipped, as it needs labelled mail; give it with --data FILE.csv.gz")
        wanted = [(name, passed_on) for name in BENCHMARKS]
    else:
        wanted = [(name, passed_on) for name in BENCHMARKS]
        wanted.append((NEEDS_DATA, [*passed_on, "--data", options.data]))
    failed = []
    for name, arguments in wanted:
        say(f"== {name}")
        started = time.monotonic()
        try:
            rows = document_of(name, arguments, options.keep_in)
        except (subprocess.CalledProcessError, ValueError) as error:
            say(f"== {name} FAILED: {error}")
            failed.append(name)
            continue
        for one in rows:
            yield {**one, "name": f"{name}: {one['name']}"}
        yield row(f"{name}: took", ours=time.monotonic() - started, unit="s")
    if failed:
        raise SystemExit(f"failed: {', '.join(failed)}")


def document_of(name: str, arguments: list[str], folder: Path | None) -> list[dict[str, Any]]:
    """The rows of a benchmark.

    Raises:
        CalledProcessError: it failed.
        ValueError: what it printed is not one document of the form that all of them have.
    """
    script = str(Path(__file__).with_name(f"{name}.py"))
    done = subprocess.run(
        [sys.executable, script, "--json", *arguments],
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    document = json.loads(done.stdout)
    if not document["rows"]:
        raise ValueError("the document holds no rows")
    for one in document["rows"]:
        if missing := KEYS - one.keys():
            raise ValueError(f"row {one.get('name')!r} lacks {', '.join(sorted(missing))}")
    if folder is not None:
        folder.mkdir(parents=True, exist_ok=True)
        kept = folder / f"{document['machine']['date']}-{name.replace('_', '-')}.json"
        kept.write_text(json.dumps(document, indent=2) + "\n")
    return document["rows"]


if __name__ == "__main__":
    run("all", __doc__, options, measure)
