"""`tinsmith serve` with the built-in model in a process of its own, watched while it is abused."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx
import psutil

START_PATIENCE_S = 240.0
KEY = "tml-a-key-that-no-answer-and-no-log-may-tell"
MODEL = "tinsmith/tiny"


@dataclass(frozen=True)
class AbusedServer:
    url: str
    home: Path
    process: subprocess.Popen[bytes]

    @property
    def log(self) -> str:
        return (self.home / "server.log").read_text(errors="replace")

    def http(self, **settings) -> httpx.Client:
        settings = {"timeout": 120.0, "headers": {"X-API-Key": KEY}, **settings}
        return httpx.Client(base_url=f"{self.url}/api/v1", **settings)

    def memory_bytes(self) -> dict[str, int]:
        """What the front and its engine hold of their own."""
        front = psutil.Process(self.process.pid)
        (engine,) = front.children()
        return {"front": front.memory_info().rss, "engine": engine.memory_info().rss}


@contextmanager
def abused(
    home: Path, settings: str = "", options: Sequence[str] = (), **environment: str
) -> Iterator[AbusedServer]:
    """`settings` is the text of its file of settings. Its log must hold no traceback at the end."""
    home.mkdir(exist_ok=True)
    (home / "settings.toml").write_text(settings)
    command = [sys.executable, "-m", "tinsmith.cli", "serve", "--home", str(home), "--port", "0"]
    command += ["--device", "cpu", "--config", str(home / "settings.toml"), *options]
    with (home / "server.log").open("wb") as log:
        environment = {**os.environ, "OMP_NUM_THREADS": "1", **environment}
        process = subprocess.Popen(command, stdout=log, stderr=log, env=environment)
    try:
        server = AbusedServer(_url_when_ready(process, home), home, process)
        yield server
        assert process.poll() is None, server.log[-4000:]
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(60)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
    log = server.log
    assert "Traceback" not in log, log[max(log.index("Traceback") - 500, 0) :][:8000]


def _url_when_ready(process: subprocess.Popen[bytes], home: Path) -> str:
    deadline = time.monotonic() + START_PATIENCE_S
    while time.monotonic() < deadline and process.poll() is None:
        if "tinsmith is ready" in (home / "server.log").read_text(errors="replace"):
            return json.loads((home / "server.json").read_text())["url"]
        time.sleep(0.1)
    log = (home / "server.log").read_text(errors="replace")
    raise AssertionError(f"the server did not become ready:\n{log[-4000:]}")


def is_alive(url: str) -> bool:
    with urllib.request.urlopen(f"{url}/api/v1/healthz", timeout=60) as answer:
        return answer.status == 200
