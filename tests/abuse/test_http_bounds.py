"""What one client may take of the server: its time, its connections, its memory, its patience."""

from __future__ import annotations

import asyncio
import json
import socket
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from urllib.parse import urlsplit

import pytest
import zstandard
from abused_server import KEY, MODEL, AbusedServer, abused, is_alive
from raw_http import Answer, Request, ask

PATIENCE_S = 60.0
MAX_CONNECTIONS = 40
MAX_POLLS = 4
SETTINGS = f"""
[service]
poll_hold_s = 3.0
[http]
slow_client_s = 1.0
max_connections = {MAX_CONNECTIONS}
max_held_polls_per_owner = {MAX_POLLS}
[limits]
max_body_bytes = 300000
max_json_bytes = 100000
"""
HEAD = b"POST /api/v1/telemetry HTTP/1.1\r\nHost: localhost\r\nX-API-Key: " + KEY.encode() + b"\r\n"
HEALTH = b"GET /api/v1/healthz HTTP/1.1\r\nHost: localhost\r\n\r\n"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[AbusedServer]:
    with abused(tmp_path_factory.mktemp("bounded"), SETTINGS) as server:
        yield server


def connected(server: AbusedServer) -> socket.socket:
    place = urlsplit(server.url)
    return socket.create_connection((place.hostname or "", place.port or 0), PATIENCE_S)


def is_cut_off(connection: socket.socket, trickle: bytes = b"") -> bool:
    """Whether the server hangs up, though it gets a byte now and then."""
    deadline = time.monotonic() + PATIENCE_S
    connection.settimeout(0.2)
    while time.monotonic() < deadline:
        try:
            if trickle:
                connection.send(trickle)
            if not connection.recv(4096):
                return True
        except TimeoutError:
            continue
        except OSError:
            return True
    return False


@pytest.mark.parametrize(
    ("begin", "trickle"),
    [
        (b"", b""),
        (b"POST /api", b""),
        (b"GET /api/v1/healthz HTTP/1.1\r\n", b"a: b\r\n"),
        (HEAD + b"Content-Length: 1000\r\n\r\n", b""),
        (HEAD + b"Content-Length: 1000\r\n\r\n", b"x"),
        (HEAD + b"Transfer-Encoding: chunked\r\n\r\n", b"1\r\nx\r\n"),
        # The answer, a refusal of the key, is there before the body.
        (HEAD.replace(KEY.encode(), b"") + b"Content-Length: 1000\r\n\r\n", b"x"),
        (HEALTH, b"G"),
    ],
    ids=[
        "silent",
        "half a line",
        "headers without end",
        "no body",
        "a body byte by byte",
        "chunks byte by byte",
        "a body nobody wants",
        "a second request byte by byte",
    ],
)
def test_who_keeps_the_server_waiting_is_cut_off(
    server: AbusedServer, begin: bytes, trickle: bytes
):
    with connected(server) as connection:
        connection.sendall(begin)
        assert is_cut_off(connection, trickle)
    assert is_alive(server.url)


def test_who_does_not_read_is_cut_off_and_others_are_served_meanwhile(server: AbusedServer):
    tokenizer = f"GET /hub/{MODEL}/resolve/main/tokenizer.json HTTP/1.1\r\nHost: localhost\r\n\r\n"
    before = server.log.count("slow_client at=answer")
    with connected(server) as connection:
        connection.settimeout(0.5)
        deadline = time.monotonic() + PATIENCE_S
        while server.log.count("slow_client at=answer") == before:
            assert time.monotonic() < deadline
            try:
                connection.send(tokenizer.encode())
            except OSError:
                time.sleep(0.1)  # the server takes no more from who reads nothing
            assert is_alive(server.url)


def test_connections_beyond_the_limit_are_told_why(server: AbusedServer):
    held = [connected(server) for _ in range(MAX_CONNECTIONS)]
    try:
        for connection in held:
            connection.sendall(HEALTH)
            assert connection.recv(4096).startswith(b"HTTP/1.1 200")
        refused = asked(server, Request(b"GET", b"/api/v1/healthz"))
        assert refused.status == 429 and refused.headers["connection"] == "close"
        assert "as many connections" in json.loads(refused.body)["detail"]
    finally:
        for connection in held:
            connection.close()
    wait_until(lambda: asked(server, Request(b"GET", b"/api/v1/healthz")).status == 200)


def wait_until(is_so: Callable[[], bool]) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while not is_so():
        assert time.monotonic() < deadline
        time.sleep(0.1)


def asked(server: AbusedServer, request: Request) -> Answer:
    answer = asyncio.run(ask(server.url, request))
    assert answer is not None, "the server hung up"
    return answer


def test_polls_beyond_the_limit_are_told_to_come_again(server: AbusedServer):
    with server.http() as http:
        session = http.post("/create_session", json={"tags": []}).json()["session_id"]
        body = {"session_id": session, "sampling_session_seq_id": 0, "base_model": MODEL}
        sampler = http.post("/create_sampling_session", json=body).json()["sampling_session_id"]
        poll = {"target": {"sampling_session_id": sampler}}
        with ThreadPoolExecutor(3 * MAX_POLLS) as threads:
            answers = list(
                threads.map(
                    lambda _: http.post("/retrieve_futures", json=poll), range(3 * MAX_POLLS)
                )
            )
        codes = [answer.status_code for answer in answers]
        assert codes.count(200) >= MAX_POLLS and set(codes) == {200, 429}
        refused = next(answer for answer in answers if answer.status_code == 429)
        assert "wait for results already" in refused.json()["detail"]
        assert http.post("/retrieve_futures", json={**poll, "timeout": 0}).status_code == 200


@pytest.mark.parametrize(
    ("raw", "status"),
    [
        (HEALTH.replace(b"\r\n\r\n", b"\r\nX: " + b"a" * 20_000 + b"\r\n\r\n"), 431),
        (HEALTH.replace(b"\r\n\r\n", b"\r\na: b" * 101 + b"\r\n\r\n"), 431),
        (HEALTH.replace(b"healthz", b"a" * 20_000), 431),
        (HEALTH.replace(b"localhost", b"["), 400),
        (HEALTH.replace(b"localhost", b"a/b"), 400),
        (HEALTH.replace(b"Host: localhost\r\n", b""), 400),
        (HEALTH.replace(b"\r\n\r\n", b"\r\nHost: other\r\n\r\n"), 400),
        (HEALTH.replace(b"\r\n\r\n", b"\r\nContent-Length: -1\r\n\r\n"), 400),
        (HEALTH.replace(b"\r\n\r\n", b"\r\na\0: b\r\n\r\n"), 400),
        (HEALTH.replace(b"healthz", b"health%00z"), 400),
        (HEALTH.replace(b"healthz", b"sessions?limit=%00"), 400),
        (HEALTH.replace(b"healthz", b"%ff%c0%ae"), 404),
        (HEALTH.replace(b"/api", b"http://evil.example/api"), 404),
        (HEALTH.replace(b"/api/v1/healthz", b"*"), 404),
        (HEALTH.replace(b"HTTP/1.1", b"HTTP/1.0"), 200),
        (HEAD + b"Transfer-Encoding: chunked\r\n\r\nzz\r\n", 400),
        (HEAD.replace(b"POST", b"HEAD") + b"Transfer-Encoding: chunked\r\n\r\nzz\r\n", None),
        (HEAD + b"Transfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\n\r\n", 200),
        (HEAD + b"Transfer-Encoding: gzip, chunked\r\n\r\n", 400),
        (HEAD + b"Content-Length: 2\r\nContent-Length: 3\r\n\r\n{}", 400),
        (HEAD + b"Expect: 100-continue\r\nContent-Length: 2\r\n\r\n{}", 200),
        (HEAD + b"Upgrade: websocket\r\nConnection: upgrade\r\n\r\n", 200),
        (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", 400),
        (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 404),
    ],
)
def test_odd_http_is_answered_in_kind(server: AbusedServer, raw: bytes, status: int | None):
    answer = asyncio.run(ask(server.url, Request(b"GET", b"/").with_raw(raw)))
    assert (answer and answer.status) == status


def test_requests_in_one_packet_are_answered_one_after_the_other(server: AbusedServer):
    with connected(server) as connection:
        connection.sendall(
            HEALTH * 3 + HEALTH.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n")
        )
        told = b""
        while piece := connection.recv(4096):
            told += piece
    assert told.count(b"HTTP/1.1 200") == 4


BOMB = zstandard.compress(b" " * 2**27)


@pytest.mark.parametrize(
    ("encoding", "body", "status"),
    [
        (b"zstd", BOMB, 413),
        (b"zstd", zstandard.ZstdCompressor(write_content_size=False).compress(b" " * 2**27), 413),
        (b"zstd", zstandard.compress(BOMB), 400),  # one layer is taken off, and the rest is no JSON
        (b"zstd, zstd", zstandard.compress(BOMB), 400),
        (b"gzip", b"\x1f\x8b\x08", 400),
        (b"identity", b" " * 300_001, 413),
        (b"identity", b" " * 100_001, 413),
        (b"identity", b"[" * 90_000, 400),
        (b"identity", b'{"limit":' + b"9" * 5000 + b"}", 400),
        (b"identity", b'{"limit":1e999}', 400),
        (b"identity", b'{"timeout":NaN,"target":{"sampling_session_id":"x"}}', 400),
    ],
)
def test_bodies_are_bounded(server: AbusedServer, encoding: bytes, body: bytes, status: int):
    call = b"/api/v1/retrieve_futures" if b"timeout" in body else b"/api/v1/sessions/search"
    headers = ((b"X-API-Key", KEY.encode()), (b"Content-Encoding", encoding))
    answer = asked(server, Request(b"POST", call, headers, body))
    assert answer.status == status, answer.body
    assert json.loads(answer.body)["detail"]


@pytest.mark.parametrize(
    "path",
    [
        "/hub/{model}/resolve/main/../../../../../../etc/passwd",
        "/hub/{model}/resolve/main/%2e%2e/%2e%2e/config.json",
        "/hub/{model}/resolve/main/..%5cconfig.json",
        "/hub/{model}/resolve/main//etc/passwd",
        "/hub/{model}/resolve/main/model.safetensors",
        "/hub/../../etc/resolve/main/config.json",
        "/api/v1/files/a/weights/b/../../../ledger.db?expires=2000000000&signature=00",
        "/api/v1/files/..%2f..%2f/weights/b/ledger.db?expires=2000000000&signature=00",
        "/api/v1/files/a/weights/b/%2fetc%2fpasswd?expires=2000000000&signature=00",
    ],
)
def test_paths_do_not_lead_out_of_what_is_served(server: AbusedServer, path: str):
    target = path.format(model=MODEL).encode()
    answer = asked(server, Request(b"GET", target, ((b"X-API-Key", KEY.encode()),)))
    assert answer.status in (400, 401, 404)
    assert b"root:" not in answer.body and str(server.home).encode() not in answer.body


@pytest.mark.parametrize("path", [b"/api/v1/healthz", b"/nowhere", b"/v1/models", b"/metrics"])
def test_answers_are_marked_for_browsers(server: AbusedServer, path: bytes):
    headers = asked(server, Request(b"GET", path)).headers
    assert headers["x-content-type-options"] == "nosniff"
    assert headers["content-security-policy"].startswith("default-src 'none'")
    assert headers["cache-control"] == "no-store"
    assert headers["referrer-policy"] == "no-referrer"
    assert "server" not in headers
