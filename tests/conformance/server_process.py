"""A server in a process of its own, as `tinsmith serve` starts it."""

from __future__ import annotations

import gc
import json
import os
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

from sdk_steps import LiveServer

START_PATIENCE_S = 240.0
T = TypeVar("T")


@contextmanager
def serving(
    home: Path, model_directory: Path, *names: str, options: Sequence[str] = (), **environment: str
) -> Iterator[LiveServer]:
    with starting(home, model_directory, *names, options=options, **environment) as process:
        log = home / "server.log"
        yield LiveServer(wait_until_healthy(process, home), home, model_directory, log)
        assert "Traceback" not in log.read_text(), log.read_text()[-4000:]


@contextmanager
def starting(
    home: Path, model_directory: Path, *names: str, options: Sequence[str] = (), **environment: str
) -> Iterator[subprocess.Popen[bytes]]:
    """A server's process, which may still be loading; its log is home/server.log."""
    home.mkdir(exist_ok=True)
    command = [sys.executable, "-m", "tinsmith.cli", "serve", "--home", str(home), "--port", "0"]
    command += ["--device", "cpu", *options]
    for name in names:
        command += ["--model", f"{name}={model_directory}"]
    with (home / "server.log").open("wb") as file:
        process = subprocess.Popen(
            command,
            stdout=file,
            stderr=file,
            env={**os.environ, "OMP_NUM_THREADS": "1", **environment},
        )
    try:
        yield process
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(30)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        gc.collect()  # what the SDK left open warns here, not in a later test of another folder


def wait_until_healthy(process: subprocess.Popen[bytes], home: Path) -> str:
    """The server's URL, once its models answer."""
    url = wait_until_announced(process, home)

    def is_healthy() -> bool:
        with urllib.request.urlopen(f"{url}/api/v1/healthz", timeout=5):
            return True

    _wait_for(is_healthy, process, home)
    return url


def wait_until_announced(process: subprocess.Popen[bytes], home: Path) -> str:
    """The server's URL, at which it listens while its models are being loaded."""
    return _wait_for(lambda: json.loads((home / "server.json").read_text())["url"], process, home)


def _wait_for(ask: Callable[[], T], process: subprocess.Popen[bytes], home: Path) -> T:
    deadline = time.monotonic() + START_PATIENCE_S
    while time.monotonic() < deadline and process.poll() is None:
        try:
            return ask()
        except (OSError, ValueError):
            time.sleep(0.05)
    log = (home / "server.log").read_text()
    raise AssertionError(f"the server did not become healthy:\n{log[-4000:]}")
