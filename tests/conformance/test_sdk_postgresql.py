"""A server whose ledger is in PostgreSQL, killed and started again; backups of servers at work."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
import threading
from pathlib import Path

import tinker
from sdk_steps import KEY, MODEL, LiveServer, adapter_of, assert_equal_adapters, train
from server_process import serving, starting, wait_until_healthy


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


def client_of(url: str) -> tinker.ServiceClient:
    return tinker.ServiceClient(base_url=url, api_key=KEY)


def trained_undisturbed(server: LiveServer, seeds: list[int]):
    """The adapter of a run that has had these batches in one go."""
    run = client_of(server.url).create_lora_training_client(MODEL, rank=4, seed=7).result()
    train(run, seeds)
    return adapter_of(run, tinker.RestClient(base_url=server.url, api_key=KEY), "undisturbed")


def goes_on_from(server: LiveServer, path: str, seeds: list[int]):
    """The adapter of a run that begins with a checkpoint and has these batches."""
    run = client_of(server.url).create_training_client_from_state_with_optimizer(path).result()
    train(run, seeds)
    return adapter_of(run, tinker.RestClient(base_url=server.url, api_key=KEY), "went-on")


def test_a_server_on_postgresql_goes_on_after_kill_9(
    model_directory: Path, tmp_path: Path, postgresql_url: str
):
    home = tmp_path / "home"
    options = ("--database", postgresql_url, "--port", free_port())
    with starting(home, model_directory, MODEL, options=options) as process:
        run = (
            client_of(wait_until_healthy(process, home))
            .create_lora_training_client(MODEL, rank=4, seed=7)
            .result()
        )
        train(run, [0, 1])
        path = run.save_state("before").result().path
        process.kill()
        process.wait()
    assert not (home / "ledger.db").exists()

    with serving(home, model_directory, MODEL, options=options) as server:
        assert_equal_adapters(
            goes_on_from(server, path, [2]), trained_undisturbed(server, [0, 1, 2])
        )


def test_a_backup_of_a_server_at_work_is_a_server_that_goes_on(
    model_directory: Path, tmp_path: Path, postgresql_url: str
):
    """From SQLite, while somebody trains, to PostgreSQL."""
    home = tmp_path / "home"
    with serving(home, model_directory, MODEL) as server:
        run = client_of(server.url).create_lora_training_client(MODEL, rank=4, seed=7).result()
        train(run, [0, 1])
        path = run.save_state("before").result().path
        stop, started = threading.Event(), threading.Event()

        def train_on() -> None:
            seed = 2
            while not stop.is_set():
                train(run, [seed])
                run.save_state(f"step-{seed}").result()
                started.set()
                seed += 1

        training = threading.Thread(target=train_on)
        training.start()
        try:
            assert started.wait(120)
            told = tinsmith(
                "backup", tmp_path / "backup.tar", "--home", tmp_path / "home", "--json"
            )
        finally:
            stop.set()
            training.join()
        done = json.loads(told)
        assert done["left_out"] == []
        assert done["checkpoints"] >= 2

    restored = tmp_path / "restored"
    tinsmith("restore", tmp_path / "backup.tar", "--home", restored, "--database", postgresql_url)
    options = ("--database", postgresql_url)
    with serving(restored, model_directory, MODEL, options=options) as server:
        rest = tinker.RestClient(base_url=server.url, api_key=KEY)
        run_id = tinker.ParsedCheckpointTinkerPath.from_tinker_path(path).training_run_id
        listed = rest.list_checkpoints(run_id).result().checkpoints
        assert len(listed) == done["checkpoints"]
        assert_equal_adapters(
            goes_on_from(server, path, [2]), trained_undisturbed(server, [0, 1, 2])
        )
