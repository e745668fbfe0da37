"""A real `tinsmith serve` of the built-in model that can be killed in every way and started again.

Its home and its port stay the same, so that clients find it again.
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path

import psutil

START_PATIENCE_S = 240.0
END_PATIENCE_S = 60.0


class KillableServer:
    def __init__(
        self, home: Path, port: int, settings: str = "", environment: Mapping[str, str] = {}
    ) -> None:
        """`settings` is the text of a config file; `environment` comes on top of our own."""
        self.home = home
        self.url = f"http://127.0.0.1:{port}"
        self._port = port
        self.environment = {**os.environ, "OMP_NUM_THREADS": "1", **environment}
        self._front: subprocess.Popen[bytes] | None = None
        self._seen: dict[int, psutil.Process] = {}
        home.mkdir(parents=True)
        self.config = home / "config.toml"
        self.config.write_text(settings)

    def start(self) -> None:
        """Returns at once; see `wait_until_ready`."""
        command = [sys.executable, "-m", "tinsmith.cli", "serve", "--home", str(self.home)]
        command += ["--port", str(self._port), "--device", "cpu", "--config", str(self.config)]
        with (self.home / "server.log").open("ab") as log:
            self._front = subprocess.Popen(command, stdout=log, stderr=log, env=self.environment)

    def wait_until_ready(self) -> None:
        """Until every model answers."""
        deadline = time.monotonic() + START_PATIENCE_S
        while time.monotonic() < deadline:
            if self._front is None or self._front.poll() is not None:
                raise AssertionError(f"the server has ended:\n{self.log_end()}")
            if self.is_ready():
                return
            time.sleep(0.05)
        raise AssertionError(f"the server did not become ready:\n{self.log_end()}")

    def is_ready(self) -> bool:
        try:
            with urllib.request.urlopen(f"{self.url}/api/v1/healthz", timeout=5):
                return True
        except OSError:
            return False

    @property
    def front(self) -> psutil.Process:
        assert self._front is not None
        return psutil.Process(self._front.pid)

    def engines(self) -> list[psutil.Process]:
        """The engine processes of the front, as far as they are started."""
        with suppress(psutil.NoSuchProcess):
            children = self.front.children()
            self._seen.update({child.pid: child for child in children})
            return children
        return []

    def kill_everything(self) -> None:
        """What a power cut or a supervisor's last resort does to the processes."""
        engines = self.engines()
        self.kill_front()
        for engine in engines:
            with suppress(psutil.NoSuchProcess):
                engine.kill()

    def kill_front(self) -> None:
        """The front alone: its engines have to end by themselves."""
        self.engines()
        if self._front is not None:
            self._front.kill()
            self._front.wait()

    def kill_engine(self) -> None:
        """Engines alone: the front has to start them again."""
        for engine in self.engines():
            with suppress(psutil.NoSuchProcess):
                engine.kill()

    def stop(self) -> int:
        """SIGTERM, and wait; the exit code."""
        assert self._front is not None
        self.engines()
        self._front.send_signal(signal.SIGTERM)
        return self._front.wait(END_PATIENCE_S)

    def wait_for_orphans(self) -> None:
        """Until no engine of a front that is gone runs any more."""
        alive = {engine.pid for engine in self.engines()}
        orphans = [one for pid, one in self._seen.items() if pid not in alive]
        _, left = psutil.wait_procs(orphans, END_PATIENCE_S)
        assert not left, f"engines that outlived their front: {left}\n{self.log_end()}"

    def log_end(self) -> str:
        return (self.home / "server.log").read_text(errors="replace")[-4000:]


MakeServer = Callable[..., KillableServer]


@contextmanager
def servers_below(folder: Path) -> Iterator[MakeServer]:
    """Makes servers with homes of their own, not started yet: `make(settings, **environment)`.
    None of them outlives the `with` block."""
    servers: list[KillableServer] = []

    def make(settings: str = "", **environment: str) -> KillableServer:
        home = folder / f"home-{len(servers)}"
        servers.append(KillableServer(home, _free_port(), settings, environment))
        return servers[-1]

    try:
        yield make
    finally:
        for server in servers:
            server.kill_everything()


def _free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


@contextmanager
def running(server: KillableServer) -> Iterator[KillableServer]:
    """Ready, and stopped at the end."""
    server.start()
    server.wait_until_ready()
    yield server
    assert server.stop() == 0
