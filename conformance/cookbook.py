"""Running a module of the cookbook as a process of its own, and reading what it leaves behind."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

PATIENCE_S = 300.0
NOWHERE = "http://127.0.0.1:9"
"""A proxy that refuses: what would leave this machine fails at once, so that no run needs to."""


class Unexpected(Exception):
    """A program did not do what it should. The message says what it did."""


@dataclass(frozen=True)
class Finished:
    directory: Path
    """What the program was told to write its logs to."""
    returncode: int
    log: str
    """Standard output and standard error together."""

    def metric(self, name: str) -> list[float]:
        """The metric's value at each step that has it, in order. Raises Unexpected if none has."""
        found = [row[name] for row in rows_of(self.directory / "metrics.jsonl") if name in row]
        if not found:
            raise Unexpected(f"no step has the metric {name}; the log ends:\n{tail_of(self.log)}")
        return found


class Cookbook:
    """The cookbook as a person has it who set the variables that the README names."""

    def __init__(self, url: str, model: str, directory: Path) -> None:
        """
        Args:
            url: the server's address.
            model: the name of its model.
            directory: where programs run: stand-ins for data are in it, logs go below it.
        """
        self.model = model
        self.directory = directory
        self._environment = {
            **os.environ,
            "TINKER_BASE_URL": url,
            "TINKER_API_KEY": "tml-conformance",
            "HF_ENDPOINT": f"{url}/hub",
            "HF_HOME": str(directory / "hf"),
            "HTTP_PROXY": NOWHERE,
            "HTTPS_PROXY": NOWHERE,
            "NO_PROXY": "127.0.0.1,localhost",
            "no_proxy": "127.0.0.1,localhost",
            "OMP_NUM_THREADS": "1",
            "PYTHONPATH": str(Path(__file__).parent.parent),  # for clients of ours
        }

    def logs(self, name: str) -> Path:
        return self.directory / "logs" / name

    def checkpoint_of(self, name: str) -> str:
        """The tinker:// path of the training checkpoint that an earlier recipe ended with.

        Raises:
            Unexpected: it has not ended well.
        """
        records = rows_of(self.logs(name) / "checkpoints.jsonl")
        if not records or records[-1]["name"] != "final":
            raise Unexpected(f"there is no final checkpoint of {name}")
        return records[-1]["state_path"]

    def recipe(self, name: str, module: str, **options: object) -> Finished:
        """Run `recipes.<module>` to its end. Options are chz's: `a__b=1` becomes `a.b=1`.

        Raises:
            Unexpected: it failed, or did not end in time.
        """
        finished = self.attempt(name, module, **options)
        if finished.returncode:
            raise Unexpected(f"it ended with {finished.returncode}:\n{tail_of(finished.log)}")
        return finished

    def attempt(self, name: str, module: str, **options: object) -> Finished:
        """As `recipe`; a failure is part of what is returned."""
        return self._wait(name, self._start(name, module, options))

    def interrupted(
        self, name: str, module: str, is_enough: Callable[[], bool], **options: object
    ) -> None:
        """Kill the recipe, without a chance to clean up, as soon as there is enough to resume from.

        Raises:
            Unexpected: it ended by itself before, or there never was enough.
        """
        process = self._start(name, module, options)
        started = time.monotonic()
        try:
            while not is_enough():
                if process.poll() is not None or time.monotonic() - started > PATIENCE_S:
                    log = self._log_of(name).read_text(errors="replace")
                    raise Unexpected(f"there was nothing to interrupt:\n{tail_of(log)}")
                time.sleep(0.05)
        finally:
            process.kill()
            process.wait()

    def script(self, name: str, module: str, *arguments: str) -> Finished:
        """Run any module with plain arguments. Raises as `recipe`."""
        finished = self._wait(name, self._spawn(name, [module, *arguments]))
        if finished.returncode:
            raise Unexpected(f"it ended with {finished.returncode}:\n{tail_of(finished.log)}")
        return finished

    def _start(
        self, name: str, module: str, options: Mapping[str, object]
    ) -> subprocess.Popen[bytes]:
        given = {"model_name": self.model, "log_path": self.logs(name), **options}
        arguments = [f"{key.replace('__', '.')}={value}" for key, value in given.items()]
        return self._spawn(name, [f"tinker_cookbook.recipes.{module}", *arguments])

    def _spawn(self, name: str, command: list[str]) -> subprocess.Popen[bytes]:
        self._log_of(name).parent.mkdir(parents=True, exist_ok=True)
        with self._log_of(name).open("wb") as log:
            return subprocess.Popen(
                [sys.executable, "-m", *command],
                cwd=self.directory,
                env=self._environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
            )

    def _wait(self, name: str, process: subprocess.Popen[bytes]) -> Finished:
        try:
            process.wait(PATIENCE_S)
        except subprocess.TimeoutExpired:
            raise Unexpected(f"it did not end within {PATIENCE_S:.0f} s") from None
        finally:
            process.kill()
            process.wait()
        log = self._log_of(name).read_text(errors="replace")
        return Finished(self.logs(name), process.returncode, log)

    def _log_of(self, name: str) -> Path:
        return self.directory / "output" / f"{name}.log"


def rows_of(path: Path) -> list[dict[str, Any]]:
    """The whole lines of a JSONL file that may still be growing; none if it is not there yet."""
    if not path.exists():
        return []
    return [
        json.loads(line)
        for line in path.read_text().splitlines(keepends=True)
        if line.endswith("\n")
    ]


def tail_of(log: str) -> str:
    return log[-1500:]
