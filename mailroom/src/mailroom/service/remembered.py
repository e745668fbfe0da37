"""Which base model a run of the local service belongs to.

A `tinker://` path names a run, and the run's base model stands in the server's records; but a
local server has to be started with that model before it can be asked.
"""

from __future__ import annotations

import json
import os
from pathlib import Path

FILE_NAME = "base-models.json"


def run_of(reference: str) -> str:
    """The run id in a `tinker://<run>/<kind>/<name>` path."""
    return reference.removeprefix("tinker://").split("/")[0]


def remember_base_model(home: Path, run_id: str, base_model: str) -> None:
    """Note what to start the local server with when a path of this run is used again."""
    home.mkdir(parents=True, exist_ok=True)
    known = _read(home) | {run_id: base_model}
    temporary = home / f".{FILE_NAME}.{os.getpid()}"
    temporary.write_text(json.dumps(known, indent=1))
    temporary.replace(home / FILE_NAME)


def recall_base_model(home: Path, reference: str) -> str | None:
    """What was noted for the path's run, if anything was."""
    return _read(home).get(run_of(reference))


def _read(home: Path) -> dict[str, str]:
    try:
        known = json.loads((home / FILE_NAME).read_bytes())
    except (OSError, ValueError):
        return {}
    return known if isinstance(known, dict) else {}
