"""SkyRL's `tx` server (PyPI: skyrl-tx) on this machine's CPU, from an environment of its own.

What it needs beyond `pip install "skyrl-tx[tinker,jax]" "tinker<0.15"` (its version 0.3.0):

- it starts its engine by `uv run --extra ... -m tx.tinker.engine`, which wants a checkout of its
  sources; a script of the name `uv` runs the same module in the installed environment;
- it reads `rope_theta` where transformers 5 no longer writes it: a copy of the model has it;
- the SDK from 0.15 on asks for a client configuration that it does not serve.
"""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import tempfile
import time
import urllib.request
from pathlib import Path

PATIENCE_S = 180.0
STAND_IN = """#!/bin/sh
while [ "$1" != "-m" ]; do shift; done
exec "{python}" "$@"
"""


class SkyrlServer:
    """For the length of a `with` block."""

    def __init__(
        self, python: Path, model: Path, *, adapters: int, rank: int, clients: int
    ) -> None:
        """
        Args:
            python: of the environment that it is installed in.
            model: a folder in Hugging Face layout.
            clients: sequences that it samples together.
        """
        self._scratch = tempfile.TemporaryDirectory()
        folder = Path(self._scratch.name)
        self.base_model = str(with_rope_theta(model, folder / "model"))
        (folder / "bin").mkdir()
        stand_in = folder / "bin" / "uv"
        stand_in.write_text(STAND_IN.format(python=python))
        stand_in.chmod(0o755)
        settings = {
            "max_lora_adapters": adapters + 1,  # one place is for the base model
            "max_lora_rank": rank,
            "sample_max_num_sequences": clients,
        }
        port = free_port()
        self.url = f"http://127.0.0.1:{port}"
        environment = {
            **os.environ,
            "JAX_PLATFORMS": "cpu",
            "PATH": f"{folder / 'bin'}{os.pathsep}{os.environ['PATH']}",
        }
        self._log = folder / "server.log"
        with self._log.open("wb") as log:
            self._process = subprocess.Popen(
                [
                    *(str(python), "-m", "tx.tinker.api"),
                    *("--base-model", self.base_model),
                    *("--backend-config", json.dumps(settings)),
                    *("--database-url", f"sqlite:///{folder / 'skyrl.db'}"),
                    *("--checkpoints-base", str(folder / "checkpoints")),
                    *("--host", "127.0.0.1", "--port", str(port)),
                ],
                stdout=log,
                stderr=log,
                env=environment,
            )
        try:
            self._wait_until_up()
        except BaseException:
            self.stop()
            raise

    def _wait_until_up(self) -> None:
        """Until the front answers; the engine takes its requests up when it has started."""
        deadline = time.monotonic() + PATIENCE_S
        while time.monotonic() < deadline and self._process.poll() is None:
            try:
                with urllib.request.urlopen(f"{self.url}/api/v1/healthz", timeout=5):
                    return
            except OSError:
                time.sleep(0.2)
        raise SystemExit(f"skyrl-tx did not start:\n{self._log.read_text()[-2000:]}")

    def stop(self) -> None:
        self._process.terminate()
        self._process.wait()
        self._scratch.cleanup()

    def __enter__(self) -> SkyrlServer:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()


def with_rope_theta(model: Path, copy: Path) -> Path:
    shutil.copytree(model, copy)
    file = copy / "config.json"
    config = json.loads(file.read_text())
    config["rope_theta"] = config["rope_parameters"]["rope_theta"]
    file.write_text(json.dumps(config))
    return copy


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]
