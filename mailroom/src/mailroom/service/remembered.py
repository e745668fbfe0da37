"""What this home knows about runs, by the run id in their `tinker://` paths.

A local server has to be started with a run's base model before it can be asked about the run, and
the scores of an evaluation belong on the model card that a later export writes.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from filelock import FileLock

from mailroom.errors import MisuseError
from mailroom.service.address import Address

FILE_NAME = "runs.json"


def remember(home: Path, run_id: str, **facts: Any) -> None:
    """Note facts (JSON values) about a run, beside those that are known."""
    home.mkdir(parents=True, exist_ok=True)
    with FileLock(home / f"{FILE_NAME}.lock"):
        runs = _read(home)
        runs[run_id] = runs.get(run_id, {}) | facts
        temporary = home / f".{FILE_NAME}.{os.getpid()}"
        temporary.write_text(json.dumps(runs, indent=1))
        temporary.replace(home / FILE_NAME)


def recall(home: Path, reference: str) -> dict[str, Any]:
    """What is known about the run of a path; nothing about what is no path, as `base`."""
    try:
        run_id = Address.parse(reference).run_id
    except MisuseError:
        return {}
    return _read(home).get(run_id, {})


def remember_scores(home: Path, reference: str, scores: Mapping[str, Any]) -> None:
    """Note what an evaluation of these weights came to, for the model card of a later export."""
    known = recall(home, reference).get("scores", {})
    run_id = Address.parse(reference).run_id
    remember(home, run_id, scores={**known, reference: dict(scores)})


def _read(home: Path) -> dict[str, dict[str, Any]]:
    try:
        runs = json.loads((home / FILE_NAME).read_bytes())
    except (OSError, ValueError):
        return {}
    return runs if isinstance(runs, dict) else {}
