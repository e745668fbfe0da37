"""Small sources of labelled mail as files."""

from __future__ import annotations

import csv
import io
from pathlib import Path

import pytest
from mailroom.taxonomy import Taxonomy

NOUNS = ("parcel", "invoice", "lunch", "garden", "kernel", "voucher", "photo", "ticket", "moon")
VERBS = ("arrives", "waits", "sings", "breaks", "turns", "begins", "moves", "returns", "ends")


def _labelled(
    num_groups: int, copies: int = 1, category: str | None = None
) -> list[dict[str, str]]:
    """Rows of different texts; copies of one differ in their numbers only."""
    keys = Taxonomy.load("reference").keys
    rows = []
    for copy in range(copies):
        for n in range(num_groups):
            noun, verb = NOUNS[n % len(NOUNS)], VERBS[n // len(NOUNS) % len(VERBS)]
            extra = "so " * (n // 81)
            rows.append(
                {
                    "id": f"{keys[n % 6]}_{copy}",
                    "subject": f"The {noun} {verb}",
                    "body": f"{extra}number {n + 100 * copy} of it, a {noun} that {verb}.",
                    "category": category or keys[n % 6],
                }
            )
    return rows


def csv_text(rows: list[dict[str, str]]) -> str:
    out = io.StringIO()
    writer = csv.DictWriter(out, fieldnames=list(rows[0]))
    writer.writeheader()
    writer.writerows(rows)
    return out.getvalue()


@pytest.fixture
def labelled():
    """Makes rows of different texts; copies of one differ in their numbers only."""
    return _labelled


@pytest.fixture
def csv_file(tmp_path: Path):
    """Writes rows as a CSV file and gives its path as a source."""

    def write(rows: list[dict[str, str]], name: str = "mail.csv") -> str:
        path = tmp_path / name
        path.write_text(csv_text(rows), "utf-8", newline="")
        return str(path)

    return write


@pytest.fixture
def reference() -> Taxonomy:
    return Taxonomy.load("reference")
