"""256 SDK clients at once. A minute here; `make test-long` takes LOAD_S seconds."""

from __future__ import annotations

import json
import os
import sqlite3
import statistics
import subprocess
import sys
import time
from contextlib import closing
from pathlib import Path

import pytest
from killable_server import KillableServer, running

SCRIPT = Path(__file__).with_name("load_clients.py")
SECONDS = float(os.environ.get("LOAD_S", "60"))
NUM_CLIENTS, NUM_PROCESSES = 256, 4
SMALL_CACHE = "[engine]\nkv_cache_bytes = 33554432\n"
"""Keys and values of prompts are kept for as long as there is room: little, so that it is full when
the warm-up is over. What grows after that is not wanted."""
LONG_ENOUGH_S = 300.0
"""For a claim about memory: what is allocated once per client or buffer is there by then."""


@pytest.mark.timeout(int(SECONDS) + 900)
def test_none_of_256_clients_sees_an_error(make_server, tmp_path):
    with running(make_server(SMALL_CACHE)) as server:
        clients = [start_clients(server, number, tmp_path) for number in range(NUM_PROCESSES)]
        memory = watch_memory(server, clients)
        told = [json.loads(child.communicate()[0].splitlines()[-1]) for child in clients]
        errors = [error for one in told for error in one["errors"]]
        assert not errors, f"{len(errors)} errors, the first: {errors[0]}"
        results = [count for one in told for count in one["results"]]
        assert len(results) == NUM_CLIENTS and min(results) > 0
        assert unsettled(server) == []
    growth = {name: growth_of(samples) for name, samples in memory.items()}
    print(f"{sum(results)} results for {NUM_CLIENTS} clients, at least {min(results)} for each")
    for name, samples in memory.items():
        print(f"{name}: {growth[name]:+.1%} memory", [round(one / 2**20) for one in samples])
    if SECONDS >= LONG_ENOUGH_S:
        assert max(growth.values()) < 0.05, growth


def start_clients(server: KillableServer, number: int, folder: Path) -> subprocess.Popen[str]:
    count = NUM_CLIENTS // NUM_PROCESSES
    arguments = [server.url, str(number * count), str(count), str(SECONDS)]
    with (folder / f"clients-{number}.log").open("w") as errors:
        return subprocess.Popen(
            [sys.executable, str(SCRIPT), *arguments],
            stdout=subprocess.PIPE,
            stderr=errors,
            text=True,
            env={**os.environ, "OMP_NUM_THREADS": "1", "TINKER_TELEMETRY": "0"},
        )


def watch_memory(
    server: KillableServer, clients: list[subprocess.Popen[str]]
) -> dict[str, list[int]]:
    """Bytes that front and engine have for themselves, now and then until the clients are done."""
    (engine,) = server.engines()
    processes = {"front": server.front, "engine": engine}
    samples: dict[str, list[int]] = {name: [] for name in processes}
    started = time.monotonic()
    while time.monotonic() - started < SECONDS and any(c.poll() is None for c in clients):
        time.sleep(SECONDS / 60)
        for name, process in processes.items():
            samples[name].append(process.memory_full_info().uss)
    return samples


def growth_of(samples: list[int]) -> float:
    """Of the last quarter beside the second: the first is for warming up."""
    quarter = len(samples) // 4
    second, last = samples[quarter : 2 * quarter], samples[-quarter:]
    return statistics.median(last) / statistics.median(second) - 1.0


def unsettled(server: KillableServer) -> list[tuple[str, int]]:
    with closing(sqlite3.connect(server.home / "ledger.db", timeout=60)) as connection:
        query = "select scope, seq_id from ops where settled_at is null and kind <> 'release'"
        return connection.execute(query).fetchall()
