"""A live `tinsmith serve` with one small model, for the length of a `with` block."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

PATIENCE_S = 180.0


@dataclass(frozen=True)
class Server:
    url: str
    log: Path
    process: subprocess.Popen[bytes]

    def has_ended(self) -> bool:
        return self.process.poll() is not None


@contextmanager
def serving(name: str, model: Path, home: Path) -> Iterator[Server]:
    """A server that is ready.

    Raises:
        SystemExit: it did not become healthy; the message ends with its log.
    """
    home.mkdir(parents=True)
    command = [sys.executable, "-m", "tinsmith.cli", "serve", "--home", str(home), "--port", "0"]
    log = home / "server.log"
    with log.open("wb") as file:
        process = subprocess.Popen(
            [*command, "--model", f"{name}={model}"],
            stdout=file,
            stderr=file,
            env={"OMP_NUM_THREADS": "1", **os.environ},
        )
    try:
        yield Server(_address(process, home, log), log, process)
    finally:
        process.terminate()
        try:
            process.wait(30)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _address(process: subprocess.Popen[bytes], home: Path, log: Path) -> str:
    started = time.monotonic()
    direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    while time.monotonic() - started < PATIENCE_S and process.poll() is None:
        try:
            url = json.loads((home / "server.json").read_text())["url"]
            with direct.open(f"{url}/api/v1/healthz", timeout=5):
                return url
        except (OSError, ValueError):
            time.sleep(0.1)
    raise SystemExit(f"tinsmith did not become healthy:\n{log.read_text()[-2000:]}")
