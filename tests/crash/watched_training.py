"""The training script as a child process, and everything that has to be equal afterwards."""

from __future__ import annotations

import json
import os
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path
from typing import Any

from killable_server import KillableServer

SCRIPT = Path(__file__).with_name("training_script.py")
KEYS = ("tml-anna", "tml-berta")
STEPS = 60

Told = list[dict[str, Any]]
Outcomes = dict[tuple[str, int], bytes]


class Training:
    """A script that is under way."""

    def __init__(self, server: KillableServer, folder: Path, steps: int = STEPS) -> None:
        folder.mkdir()
        self._out, self._errors = folder / "out", folder / "errors"
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "TINKER_TELEMETRY": "0"}
        with self._out.open("wb") as out, self._errors.open("wb") as errors:
            self._process = subprocess.Popen(
                [sys.executable, str(SCRIPT), server.url, str(steps), *KEYS],
                stdout=out,
                stderr=errors,
                env=environment,
            )

    def has_ended(self) -> bool:
        return self._process.poll() is not None

    def result(self, patience_s: float = 600.0) -> Told:
        """What it printed. A script that failed is a failed test."""
        try:
            code = self._process.wait(patience_s)
        except subprocess.TimeoutExpired:
            self.kill()
            raise AssertionError(f"the script hangs:\n{self._end_of_errors()}") from None
        assert code == 0, f"the script failed:\n{self._end_of_errors()}"
        return json.loads(self._out.read_text().splitlines()[-1])

    def error(self, patience_s: float = 600.0) -> str | None:
        """The last line of its traceback; None if it ended well."""
        self._process.wait(patience_s)
        told = self._errors.read_text(errors="replace")
        return told.splitlines()[-1] if self._process.returncode else None

    def kill(self) -> None:
        self._process.kill()
        self._process.wait()

    def _end_of_errors(self) -> str:
        return self._errors.read_text(errors="replace")[-4000:]


def assert_equal_trainings(server: KillableServer, disturbed: Told, undisturbed: Told) -> None:
    """Bit for bit: losses, metrics, sampled tokens, final adapters and moments."""
    for one, other in zip(disturbed, undisturbed, strict=True):
        for what in ("steps", "samples"):
            assert one[what] == other[what], f"{what} of {one['run_id']}"
        for name in ("latest", "final"):
            files = [state_files(server, told["run_id"], name) for told in (one, other)]
            assert files[0] == files[1], f"{name} of {one['run_id']}"


def state_files(server: KillableServer, run_id: str, name: str) -> dict[str, bytes]:
    """The bytes of a training checkpoint: adapter and optimizer."""
    folder = server.home / "checkpoints" / run_id.replace(":", "-") / "weights" / name
    files = {path.name: path.read_bytes() for path in folder.glob("*.safetensors")}
    assert files.keys() == {"adapter_model.safetensors", "optimizer.safetensors"}, folder
    return files


def settled(server: KillableServer) -> Outcomes:
    """Each outcome that the ledger holds, by (scope, seq_id), whether a server runs or not."""
    rows = ask(server, "select scope, seq_id, outcome from ops where outcome is not null")
    return {(scope, seq_id): outcome for scope, seq_id, outcome in rows}


def assert_outcomes_stand(server: KillableServer, earlier: Outcomes) -> None:
    now = settled(server)
    changed = [place for place, outcome in earlier.items() if now.get(place) != outcome]
    assert not changed, f"outcomes that were recorded once and are others now: {changed[:10]}"


def assert_nothing_failed(server: KillableServer) -> None:
    """No op failed, none waits, and each run came back exactly."""
    failed = ask(server, "select scope, seq_id, kind, outcome from ops where is_failed")
    assert not failed, failed[:3]
    waiting = ask(
        server, "select scope, seq_id, kind from ops where settled_at is null and kind <> 'release'"
    )
    assert not waiting, waiting[:10]
    odd = ask(
        server,
        "select run_id, is_corrupted, inexact from runs where is_corrupted or inexact is not null",
    )
    assert not odd, odd


def num_logged(server: KillableServer, kind: str) -> int:
    """How many ops of a kind there are."""
    ((count,),) = ask(server, f"select count(*) from ops where kind = '{kind}'")
    return count


def ask(server: KillableServer, query: str) -> list[Any]:
    """Rows of the server's ledger, whether it runs or not."""
    with closing(sqlite3.connect(server.home / "ledger.db", timeout=60)) as connection:
        return connection.execute(query).fetchall()
