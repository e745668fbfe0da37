"""What one client may ask of the server at once."""

from __future__ import annotations

import asyncio
import json

import pytest
from starlette.types import Message, Receive, Scope, Send
from tinsmith.api.guarded import Guarded
from tinsmith.api.waiting import WaitingRoom
from tinsmith.config import Http
from tinsmith.domain.errors import BusyError, InvalidInputError


def test_waiting_is_bounded_for_each_owner_and_in_all():
    room = WaitingRoom(3, 2)
    with room.seat("anna"), room.seat("anna"):
        with pytest.raises(BusyError, match="2 of your requests"), room.seat("anna"):
            pass
        with room.seat("boris"), pytest.raises(BusyError, match="3 requests"), room.seat("carl"):
            pass
        with room.seat("carl"):
            pass
    with room.seat("anna"), room.seat("anna"):
        pass


def test_bodies_in_work_are_bounded_together_and_forgotten_when_they_are_answered():
    async def take_all(scope: Scope, receive: Receive, send: Send) -> None:
        while (await receive()).get("more_body"):
            pass
        await scope["hold"].wait()

    app = Guarded(take_all, max_bodies_bytes=100)

    async def request(size: int, hold: asyncio.Event) -> None:
        async def receive() -> Message:
            return {"type": "http.request", "body": bytes(size), "more_body": False}

        async def send(message: Message) -> None:
            raise AssertionError(message)

        scope = {"type": "http", "headers": [], "path": "/", "raw_path": b"/", "query_string": b""}
        await app({**scope, "hold": hold}, receive, send)

    async def story() -> None:
        hold, go_on = asyncio.Event(), asyncio.Event()
        go_on.set()
        first = asyncio.create_task(request(60, hold))
        await asyncio.sleep(0)
        with pytest.raises(BusyError):
            await request(60, go_on)
        await request(40, go_on)
        hold.set()
        await first
        await request(100, go_on)

    asyncio.run(story())


@pytest.mark.parametrize("model", ["\ud800", "a\ud800" * 50])
def test_a_refusal_that_quotes_what_cannot_be_written_is_written(client, model: str):
    headers = {"Authorization": "Bearer tml-test"}
    body = {"model": model, "prompt": "a"}
    for answer in (
        client.post("/v1/completions", content=_json(body), headers=headers),
        client.post("/v1/completions", content=_json({**body, model: 1}), headers=headers),
        client.post("/api/v1/create_model", content=_json({"session_id": [model]})),
    ):
        assert 400 <= answer.status_code < 500
        assert answer.json()


def _json(body: dict) -> bytes:
    return json.dumps(body).encode()


def test_a_refusal_quotes_the_beginning_of_what_goes_on_for_long(client):
    for value in (b'"' + b"x" * 50_000 + b'"', b"[" * 900 + b"]" * 900):
        answer = client.post("/api/v1/get_info", content=b'{"model_id":' + value + b"}")
        assert answer.status_code in (400, 404)
        assert len(answer.content) < 60_000


def test_download_urls_carry_the_address_that_is_set(rooms, run):
    run.do("save_weights", path="a")
    path = f"/api/v1/training_runs/{run.run_id}/checkpoints/weights/a/external_weights_urls"
    forged = {
        "Host": "localhost",
        "X-Forwarded-Host": "evil.example",
        "X-Forwarded-Proto": "gopher",
    }
    for public_url, begins in (
        ("", "http://localhost/api/v1/files/"),
        ("https://tinsmith.example/at/", "https://tinsmith.example/at/api/v1/files/"),
    ):
        with rooms.client(http=Http(public_url=public_url)) as client:
            urls = client.get(path, headers=forged).json()["urls"]
        assert urls and all(url.startswith(begins) for url in urls.values())


@pytest.mark.parametrize(
    "changes",
    [
        {"public_url": "tinsmith.example"},
        {"public_url": "https://a b"},
        {"public_url": "https://a.example/?x"},
        {"tls_cert": "a"},
        {"tls_key": "a"},
        {"max_connections": 0},
        {"slow_client_s": -1.0},
    ],
)
def test_settings_that_cannot_work_are_refused(changes: dict):
    with pytest.raises(InvalidInputError, match=r"http\."):
        Http(**changes)
