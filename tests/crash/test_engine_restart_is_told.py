"""What watchdogs and metrics tell while an engine dies and comes back."""

from __future__ import annotations

import time
from collections.abc import Callable

import httpx

PATIENCE_S = 120.0


def wait_until(is_so: Callable[[], bool]) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while not is_so():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_an_engine_that_ended_is_told_until_it_is_back_and_the_server_lives_on(make_server):
    server = make_server()
    server.start()
    server.wait_until_ready()
    with httpx.Client(base_url=server.url, timeout=PATIENCE_S) as http:
        restarts = 'tinsmith_engine_restarts_total{base_model="tinsmith/tiny"}'
        assert f"{restarts} 0.0" in http.get("/metrics").text

        server.kill_engine()

        missing = {"status": "unavailable", "not_ready": ["tinsmith/tiny"]}
        wait_until(lambda: http.get("/readyz").json() == missing)
        assert http.get("/healthz").status_code == 200
        wait_until(lambda: http.get("/readyz").status_code == 200)
        assert f"{restarts} 1.0" in http.get("/metrics").text
    assert server.stop() == 0
