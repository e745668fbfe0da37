"""512 samples asked for at once: a batch of somebody's evaluation, or everybody after a lunch."""

from __future__ import annotations

import asyncio

import httpx
import pytest
import tinker
from killable_server import running

MODEL = "tinsmith/tiny"
KEY = "tml-load"
NUM_SAMPLES = 512

pytestmark = pytest.mark.timeout(600)


def test_512_samples_of_one_sdk_client(make_server):
    with running(make_server()) as server:
        service = tinker.ServiceClient(base_url=server.url, api_key=KEY)
        sampler = service.create_sampling_client(base_model=MODEL).result()
        params = tinker.SamplingParams(max_tokens=8, seed=1)
        asked = [
            sampler.sample(tinker.ModelInput.from_ints(prompt_of(number)), 1, params)
            for number in range(NUM_SAMPLES)
        ]
        answers = [one.result() for one in asked]
        service.close("success").result()
        assert [len(answer.sequences) for answer in answers] == [1] * NUM_SAMPLES
        assert "Traceback" not in server.log_end()


def test_512_connections_at_once(make_server):
    """Without the SDK, which sends no more than half of them before the first has come back."""
    with running(make_server()) as server:
        statuses = asyncio.run(ask_all(f"{server.url}/api/v1"))
        assert statuses == [200] * NUM_SAMPLES
        assert "Traceback" not in server.log_end()


def prompt_of(number: int) -> list[int]:
    return [8 + number, 9, 10, 11, 12, 13, 14, 15]


async def ask_all(url: str) -> list[int]:
    """The status of each final answer; the first refusal instead, where there was one."""
    limits = httpx.Limits(max_connections=None)
    headers = {"X-API-Key": KEY}
    async with httpx.AsyncClient(
        base_url=url, headers=headers, limits=limits, timeout=300.0
    ) as http:
        session = (await http.post("/create_session", json={"tags": []})).json()
        body = {**session, "sampling_session_seq_id": 0, "base_model": MODEL}
        body.pop("type")
        made = (await http.post("/create_sampling_session", json=body)).json()
        sampler_id = made["sampling_session_id"]
        return await asyncio.gather(
            *(ask(http, sampler_id, number) for number in range(NUM_SAMPLES))
        )


async def ask(http: httpx.AsyncClient, sampler_id: str, number: int) -> int:
    sample = {
        "sampling_session_id": sampler_id,
        "seq_id": number,
        "prompt": {"chunks": [{"type": "encoded_text", "tokens": prompt_of(number)}]},
        "sampling_params": {"max_tokens": 8, "seed": 1},
    }
    submitted = await http.post("/asample", json=sample)
    if submitted.status_code != 200:
        return submitted.status_code
    request = {"request_id": submitted.json()["request_id"]}
    while True:
        answer = await http.post("/retrieve_future", json=request)
        if answer.status_code != 408:
            return answer.status_code
