"""The configuration of docs/how-to/behind-nginx.md, in a real nginx, with the unmodified SDK."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import socket
import ssl
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest
from abused_server import MODEL, AbusedServer, abused
from certificates import HOST, Pair, make_pair
from click.testing import CliRunner
from test_tls import run_program
from tinsmith.cli import main

from tests.postgresql_server import absent

PAGE = Path(__file__).parents[2] / "docs" / "how-to" / "behind-nginx.md"
PATIENCE_S = 60.0
AROUND = """\
daemon off;
pid {folder}/nginx.pid;
error_log {folder}/error.log;
events {{ worker_connections 1024; }}
http {{
    access_log off;
    client_body_temp_path {folder}/bodies;
    proxy_temp_path {folder}/proxied;
    fastcgi_temp_path {folder}/fastcgi;
    uwsgi_temp_path {folder}/uwsgi;
    scgi_temp_path {folder}/scgi;
{shown}
}}
"""


@dataclass(frozen=True)
class Proxied:
    url: str
    key: str
    pair: Pair
    server: AbusedServer

    def http(self, key: str | None = None) -> httpx.Client:
        key = self.key if key is None else key
        trusted = ssl.create_default_context(cafile=str(self.pair.cert))
        headers = {"X-API-Key": key, "Authorization": f"Bearer {key}"} if key else {}
        return httpx.Client(base_url=self.url, verify=trusted, headers=headers, timeout=120.0)


@pytest.fixture(scope="module")
def proxied(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Proxied]:
    if shutil.which("nginx", path=f"{os.environ['PATH']}:/usr/sbin") is None:
        absent("nginx is not installed (Debian: apt-get install nginx-light)")
    folder = tmp_path_factory.mktemp("nginx")
    home = folder / "home"
    made = CliRunner().invoke(main, ["keys", "create", "--home", str(home)])
    key = made.stdout.split()[0]
    assert key.startswith("tml-"), made.output
    pair = make_pair(folder / "tls")
    port = free_port()
    url = f"https://{HOST}:{port}"
    options = ["--public-url", url]
    with (
        abused(home, options=options) as server,
        nginx(folder, port, pair, server.url),
    ):
        yield Proxied(url, key, pair, server)


@contextmanager
def nginx(folder: Path, port: int, pair: Pair, behind: str) -> Iterator[None]:
    (shown,) = re.findall(r"```nginx\n(.*?)```", PAGE.read_text(), re.DOTALL)
    for told, ours in (
        ("listen 443 ", f"listen 127.0.0.1:{port} "),
        ("server_name tinsmith.example;", f"server_name {HOST};"),
        ("/etc/letsencrypt/live/tinsmith.example/fullchain.pem", str(pair.cert)),
        ("/etc/letsencrypt/live/tinsmith.example/privkey.pem", str(pair.key)),
        ("server 127.0.0.1:8765;", f"server {behind.removeprefix('http://')};"),
    ):
        assert told in shown
        shown = shown.replace(told, ours)
    file = folder / "nginx.conf"
    file.write_text(AROUND.format(folder=folder, shown=shown))
    program = shutil.which("nginx", path=f"{os.environ['PATH']}:/usr/sbin")
    command = [str(program), "-c", str(file), "-e", str(folder / "error.log")]
    if os.getuid() == 0:  # its workers write bodies as the user that they then are
        command += ["-g", "user root;"]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    try:
        deadline = time.monotonic() + PATIENCE_S
        while True:
            try:
                socket.create_connection(("127.0.0.1", port), 5).close()
                break
            except OSError:
                assert process.poll() is None and time.monotonic() < deadline, errors_of(folder)
                time.sleep(0.05)
        yield
    finally:
        process.send_signal(signal.SIGTERM)
        process.communicate(timeout=PATIENCE_S)


def errors_of(folder: Path) -> str:
    log = folder / "error.log"
    return log.read_text() if log.exists() else "nginx left no log"


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


def test_the_sdk_trains_samples_and_downloads_through_it(proxied: Proxied):
    told = run_program(proxied.url, proxied.key, proxied.pair.cert)
    assert told["url"].startswith(f"{proxied.url}/api/v1/files/")
    assert told["downloaded_bytes"] > 0 and len(told["tokens"]) == 8


def test_nobody_counts_as_local(proxied: Proxied):
    for key in ("", "tml-any"):
        with proxied.http(key) as http:
            for path in ("/api/v1/sessions", "/metrics", "/v1/models"):
                assert http.get(path).status_code == 401, (key, path)
    with httpx.Client(base_url=proxied.server.url) as direct:
        assert direct.get("/metrics").status_code == 401
    with proxied.http() as http:
        for path in ("/api/v1/sessions", "/metrics", "/v1/models"):
            assert http.get(path).status_code == 200, path


def test_a_poll_is_held_through_it_as_long_as_by_the_server(proxied: Proxied):
    with proxied.http() as http:
        body: dict = {"tags": []}
        session = http.post("/api/v1/create_session", json=body).json()["session_id"]
        body = {"session_id": session, "sampling_session_seq_id": 0, "base_model": MODEL}
        sampler = http.post("/api/v1/create_sampling_session", json=body).json()
        body = {"target": {"sampling_session_id": sampler["sampling_session_id"]}}
        started = time.monotonic()
        answer = http.post("/api/v1/retrieve_futures", json=body)
        assert answer.status_code == 200 and answer.json()["completions"] == []
        assert time.monotonic() - started > 20  # nothing hung up before service.poll_hold_s


def test_streams_come_in_parts_and_large_bodies_pass(proxied: Proxied):
    chat = {"model": MODEL, "prompt": "Subject: a", "max_tokens": 20, "stream": True}
    with proxied.http() as http:
        with http.stream("POST", "/v1/completions", json=chat) as answer:
            lines = [line for line in answer.iter_lines() if line]
        assert lines[-1] == "data: [DONE]" and len(lines) > 5
        too_large = http.post("/api/v1/telemetry", content=b" " * (64 * 2**20 + 1))
        assert (too_large.status_code, "exceeds" in too_large.text) == (413, True)
        assert http.post("/api/v1/telemetry", content=b" " * 10 * 2**20).status_code == 200


def test_while_the_server_is_away_the_sdk_is_told_to_repeat(tmp_path: Path, proxied: Proxied):
    port = free_port()
    nobody = f"http://127.0.0.1:{free_port()}"
    with nginx(tmp_path, port, proxied.pair, nobody), proxied.http() as http:
        away = http.post(f"https://{HOST}:{port}/api/v1/retrieve_future", json={})
    assert (away.status_code, away.headers["retry-after"]) == (429, "2")
    assert json.loads(away.text)["detail"]
