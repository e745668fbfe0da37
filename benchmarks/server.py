"""A live `tinsmith serve` of this machine, and what the kernel says of its engine's memory."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from pathlib import Path

from side import peak_of

PATIENCE_S = 180.0
KEY = "tml-benchmark"


class Server:
    """A server on a free port with a home of its own, for the length of a `with` block."""

    def __init__(self, *arguments: str) -> None:
        """
        Args:
            arguments: further options of `tinsmith serve`.
        """
        # Nobody is there to send it to, and a proxy of the environment is not for loopback.
        os.environ["TINKER_TELEMETRY"] = "0"
        os.environ["NO_PROXY"] = os.environ["no_proxy"] = "127.0.0.1,localhost"
        self._home = tempfile.TemporaryDirectory()
        self.home = home = Path(self._home.name)
        started = time.monotonic()
        command = [sys.executable, "-m", "tinsmith.cli", "serve", "--home", str(home)]
        self._log = home / "server.log"
        with self._log.open("wb") as log:
            self._process = subprocess.Popen(
                [*command, "--port", "0", *arguments], stdout=log, stderr=log
            )
        try:
            self.url = self._wait_until_healthy(home / "server.json", started)
        except BaseException:
            self.stop()
            raise
        self.start_s = time.monotonic() - started
        """From the command to a model that has answered."""

    def _wait_until_healthy(self, server_file: Path, started: float) -> str:
        while time.monotonic() - started < PATIENCE_S and self._process.poll() is None:
            if url := healthy_url(server_file):
                return url
            time.sleep(0.02)
        raise SystemExit(f"the server did not become healthy:\n{self._log.read_text()[-2000:]}")

    def engine_peak_bytes(self) -> int:
        """Most resident memory that the engine has had."""
        return max(peak_of(pid) for pid in children_of(self._process.pid))

    def stop(self) -> None:
        self._process.terminate()
        self._process.wait()
        self._home.cleanup()

    def __enter__(self) -> Server:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()


def healthy_url(server_file: Path) -> str | None:
    """The server's address once its model has answered, else None."""
    try:
        url = json.loads(server_file.read_text())["url"]
        with urllib.request.urlopen(f"{url}/api/v1/healthz", timeout=5) as answer:
            return url if answer.status == 200 else None
    except (OSError, ValueError, urllib.error.URLError):
        return None


def children_of(pid: int | str) -> list[int]:
    """Process ids of its children, as Linux tells them."""
    lists = Path(f"/proc/{pid}/task").glob("*/children")
    return [int(child) for one in lists for child in one.read_text().split()]
