"""A ledger in PostgreSQL whose server is killed and started again; a backup of a server at work."""

from __future__ import annotations

import json
import socket
import sqlite3
import subprocess
import sys
import threading
from collections.abc import Sequence
from pathlib import Path

import tinker
from sdk_steps import (
    ADAM,
    KEY,
    MODEL,
    LiveServer,
    adapter_of,
    assert_equal_adapters,
    batch_of,
    train,
)
from server_process import serving, starting, wait_until_healthy

LAST = 99
"""The batch that comes when the server is there again."""


def free_port() -> str:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return str(one.getsockname()[1])


def tinsmith(*arguments: object) -> str:
    """What a command prints on standard output."""
    return subprocess.run(
        [sys.executable, "-m", "tinsmith.cli", *map(str, arguments)],
        check=True,
        stdout=subprocess.PIPE,
        text=True,
    ).stdout


class Runs:
    """Makes runs, each with a client of its own."""

    def __init__(self) -> None:
        self._clients: list[tinker.ServiceClient] = []

    def new(self, url: str) -> tinker.TrainingClient:
        self._clients.append(tinker.ServiceClient(base_url=url, api_key=KEY))
        return self._clients[-1].create_lora_training_client(MODEL, rank=4, seed=7).result()

    def close(self) -> None:
        """While the server is there: an SDK that asks in vain when Python ends aborts it."""
        for client in self._clients:
            client.close("success").result()


def submit(run: tinker.TrainingClient, kinds: Sequence[str], *, first_seed: int = 0) -> list:
    """These ops ahead; the batches have their seeds in order."""
    futures, seed = [], first_seed
    for kind in kinds:
        if kind == "forward_backward":
            futures.append(run.forward_backward(batch_of(4, seed=seed), "cross_entropy"))
            seed += 1
        else:
            futures.append(run.optim_step(ADAM))
    return futures


def assert_went_on(
    server: LiveServer, runs: Runs, run: tinker.TrainingClient, kinds: Sequence[str]
) -> None:
    """One more step, and the run is bit for bit one that had these ops and it undisturbed."""
    rest = tinker.RestClient(base_url=server.url, api_key=KEY)
    undisturbed = runs.new(server.url)
    for future in submit(undisturbed, kinds):
        future.result()
    for one in (run, undisturbed):
        train(one, [LAST])
    assert_equal_adapters(
        adapter_of(run, rest, "went-on"), adapter_of(undisturbed, rest, "undisturbed")
    )


def test_a_run_on_postgresql_goes_on_after_kill_9(
    model_directory: Path, tmp_path: Path, postgresql_url: str
):
    home, runs = tmp_path / "home", Runs()
    options = ("--database", postgresql_url, "--port", free_port())
    kinds = ["forward_backward", "optim_step"] * 4
    with starting(home, model_directory, MODEL, options=options) as process:
        run = runs.new(wait_until_healthy(process, home))
        futures = submit(run, kinds)
        futures[3].result()
        process.kill()
        process.wait()
    assert not (home / "ledger.db").exists()

    with serving(home, model_directory, MODEL, options=options) as server:
        for future in futures:
            future.result()
        assert_went_on(server, runs, run, kinds)
        runs.close()


def logged_kinds(backup: Path, run_id: str) -> list[str]:
    """What the run had been asked to compute when the backup was made."""
    connection = sqlite3.connect(f"file:{backup / 'ledger.db'}?mode=ro", uri=True)
    found = connection.execute(
        "SELECT kind FROM ops WHERE scope = ? AND kind IN ('forward_backward', 'optim_step') "
        "ORDER BY seq_id",
        (run_id,),
    ).fetchall()
    connection.close()
    return [kind for (kind,) in found]


def test_a_backup_of_a_server_at_work_is_a_server_that_goes_on(
    model_directory: Path, tmp_path: Path, postgresql_url: str
):
    """Taken from SQLite while somebody trains, restored to PostgreSQL under the old address."""
    home, backup, restored = (tmp_path / name for name in ("home", "backup", "restored"))
    port, runs = ("--port", free_port()), Runs()
    with serving(home, model_directory, MODEL, options=port) as server:
        run = runs.new(server.url)
        run_id = run.get_info().model_id
        stop, is_saved = threading.Event(), threading.Event()

        def train_on() -> None:
            seed = 0
            while not stop.is_set():
                train(run, [seed])
                run.save_state(f"step-{seed}").result()
                is_saved.set()
                seed += 1

        training = threading.Thread(target=train_on)
        training.start()
        try:
            assert is_saved.wait(120)
            done = json.loads(tinsmith("backup", backup, "--home", home, "--json"))
        finally:
            stop.set()
            training.join()
    assert done["left_out"] == []

    tinsmith("restore", backup, "--home", restored, "--database", postgresql_url)
    options = (*port, "--database", postgresql_url)
    with serving(restored, model_directory, MODEL, options=options) as server:
        rest = tinker.RestClient(base_url=server.url, api_key=KEY)
        saved = rest.list_checkpoints(run_id).result().checkpoints
        assert len(saved) >= done["checkpoints"] >= 1
        assert_went_on(server, runs, run, logged_kinds(backup, run_id))
        runs.close()
