"""What watchdogs are told."""

from __future__ import annotations

import pytest
from tinsmith.domain.engine_report import EngineState


def fails() -> bool:
    raise RuntimeError("nobody is to ask")


@pytest.mark.parametrize("host", ["127.0.0.1:8765", "tinsmith.example"])
def test_a_server_lives_whatever_its_models_and_its_ledger_do(rooms, host):
    rooms.ledger.close()
    client = rooms.client(key=None, host=host, is_healthy=fails, engines=fails)

    answer = client.get("/healthz")

    assert (answer.status_code, answer.json()) == (200, {"status": "ok"})


def test_a_server_is_ready_once_every_model_answers_and_names_those_that_do_not(rooms):
    states = {"org/tiny": EngineState(True), "org/loading": EngineState(False)}
    client = rooms.client(key=None, host="tinsmith.example", engines=lambda: states)

    answer = client.get("/readyz")
    assert answer.status_code == 503
    assert answer.json() == {"status": "unavailable", "not_ready": ["org/loading"]}

    states["org/loading"] = EngineState(True)
    assert client.get("/readyz").json() == {"status": "ok"}
