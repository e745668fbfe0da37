"""What became of each program, as a table for people and as JSON for machines."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass

COLUMNS = ("program", "what was run", "steps", "seconds", "result")


@dataclass(frozen=True)
class Line:
    program: str
    what: str
    ok: bool
    steps: int | None
    seconds: float
    result: str
    """What came of it, or why it failed."""


def table(lines: Sequence[Line]) -> str:
    """One line a program; reasons of failures stand whole below the table."""
    rows = [COLUMNS, *(_cells(line) for line in lines)]
    widths = [max(len(row[i]) for row in rows) for i in range(len(COLUMNS) - 1)]
    drawn = [
        "  ".join([cell.ljust(width) for cell, width in zip(row, widths, strict=False)] + [row[-1]])
        for row in rows
    ]
    reasons = [f"\nFAILED {line.program}\n{line.result}" for line in lines if not line.ok]
    num_ok = sum(line.ok for line in lines)
    return "\n".join([*drawn, *reasons, f"\n{num_ok} of {len(lines)} programs ok"])


def machine(lines: Sequence[Line], versions: Mapping[str, str]) -> str:
    return json.dumps(
        {
            "ok": all(line.ok for line in lines),
            "versions": dict(versions),
            "programs": [asdict(line) for line in lines],
        },
        indent=2,
    )


def _cells(line: Line) -> tuple[str, ...]:
    result = f"ok: {line.result}" if line.ok else f"FAILED: {line.result.splitlines()[0]}"
    steps = "" if line.steps is None else str(line.steps)
    return line.program, line.what, steps, f"{line.seconds:.0f}", result
