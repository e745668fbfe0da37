"""No request, however damaged, makes the server fail, hang, grow or tell what it should not.

FUZZ_SEED and FUZZ_REQUESTS repeat or lengthen a campaign; `make test-long` runs the long one.
"""

from __future__ import annotations

import asyncio
import os
import random
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pytest
import tinker
import tinsmith.api
from abused_server import KEY, MODEL, AbusedServer, abused, is_alive
from damage import damaged
from raw_http import Answer, Request, ask
from valid_requests import Endpoint, Things, every_endpoint

NUM_REQUESTS = int(os.environ.get("FUZZ_REQUESTS", 20_000))
# One and the same in `make test`, so that it tells of changes; the long form draws one.
SEED = int(
    os.environ.get("FUZZ_SEED", random.randrange(10**6) if "FUZZ_REQUESTS" in os.environ else 3)
)
REQUESTS_OF_THINGS = 250
"""Damaged requests spoil what they are about: it is made anew so often."""
NUM_CLIENTS = 16
WARM_UP_SHARE = 0.5
MAX_GROWTH = 0.10
SETTINGS = """
[service]
poll_hold_s = 0.2
[http]
slow_client_s = 1.0
[limits]
max_num_samples = 8
max_body_bytes = 2000000
[engine]
kv_cache_bytes = 33554432
"""


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[AbusedServer]:
    with abused(tmp_path_factory.mktemp("fuzzed"), SETTINGS) as server:
        yield server


@pytest.fixture(scope="module")
def things(server: AbusedServer) -> Things:
    with server.http() as http:
        return Things(http)


def test_undamaged_requests_are_taken(server: AbusedServer, things: Things):
    """Else the campaign would only knock at the door."""
    endings = [one for one in every_endpoint() if one.method == "DELETE"]
    endings += [one for one in every_endpoint() if one.path.endswith("/finish")]
    others = [one for one in every_endpoint() if one not in endings]
    codes = {}
    for endpoint in [*others, *reversed(endings)]:
        status = _status(asyncio.run(ask(server.url, things.request(endpoint))))
        if status >= 400:
            codes[endpoint.method, endpoint.path] = status
    assert codes == {
        ("DELETE", "/api/v1/auth/apikey/me"): 403,
        ("GET", "/hub/{rest:path}"): 404,
        ("GET", "/api/v1/files/{run}/{kind}/{name}/{path:path}"): 401,  # not signed by the server
    }


def test_every_field_that_is_read_is_in_the_bodies(things: Things):
    folder = Path(tinsmith.api.__file__).parent
    source = "\n".join(path.read_text() for path in sorted(folder.rglob("*.py")))
    read = re.findall(
        r"\.(?:text|integer|number|flag|items|object|raw|metadata)(?:_or)?\(\s*\"(\w+)\"", source
    )
    known = set(re.findall(r"\w+", str([things.body(endpoint) for endpoint in every_endpoint()])))
    unsupported = {
        "age_encryption_recipients",
        "optimizer_params",
        "weights_access_token",
        "sparse_crow_indices",
        "sparse_col_indices",
    }
    assert set(read) - known - unsupported == set()


@pytest.mark.timeout(0 if NUM_REQUESTS > 20_000 else 1500)
def test_damaged_requests(server: AbusedServer):
    print(f"FUZZ_SEED={SEED} FUZZ_REQUESTS={NUM_REQUESTS}")
    before = _train(server)
    codes: Counter[int] = Counter()
    endpoints = every_endpoint()
    start_bytes: dict[str, int] = {}
    for first in range(0, NUM_REQUESTS, REQUESTS_OF_THINGS):
        if not start_bytes and first >= WARM_UP_SHARE * NUM_REQUESTS:
            start_bytes = _memory_at_rest(server)
        with server.http() as http:
            things = Things(http)
            numbers = range(first, min(first + REQUESTS_OF_THINGS, NUM_REQUESTS))
            requests = [_request(things, endpoints, number) for number in numbers]
            codes += asyncio.run(_send_all(server, requests))
            things.end(http)
    end_bytes = _memory_at_rest(server)
    print(dict(sorted(codes.items())), start_bytes, end_bytes)
    assert {200, 400, 404, 405} <= set(codes)
    assert is_alive(server.url)
    assert KEY not in server.log
    for name, size in start_bytes.items():
        assert end_bytes[name] < (1 + MAX_GROWTH) * size, (name, start_bytes, end_bytes)
    assert _train(server) == before


def _request(things: Things, endpoints: Sequence[Endpoint], number: int) -> Request:
    """The campaign's request of this number; it depends on the seed alone."""
    chance = random.Random(f"{SEED}:{number}")
    return damaged(things.request(chance.choice(endpoints)), chance)


async def _send_all(server: AbusedServer, requests: list[Request]) -> Counter[int]:
    codes: Counter[int] = Counter()
    left = iter(requests)

    async def client() -> None:
        for request in left:
            answer = await ask(server.url, request)
            _check(server, request, answer)
            codes[_status(answer)] += 1

    async with asyncio.TaskGroup() as clients:
        for _ in range(NUM_CLIENTS):
            clients.create_task(client())
    return codes


def _check(server: AbusedServer, request: Request, answer: Answer | None) -> None:
    if answer is None:  # the server hung up: only on what is not HTTP, or never ends
        return
    assert answer.status < 500, f"{answer.status} {answer.body[:500]!r} to {request.shown()}"
    if answer.status < 400:
        return
    for secret in (str(server.home), KEY, "Traceback", 'File "'):
        assert secret.encode() not in answer.body, f"{answer.body!r} to {request.shown()}"
    if answer.body and answer.headers.get("content-type") == "application/json":
        assert re.match(rb'\{"(detail|error|type|status)":', answer.body), request.shown()


def _status(answer: Answer | None) -> int:
    return 0 if answer is None else answer.status


def _memory_at_rest(server: AbusedServer) -> dict[str, int]:
    """After what was taken in has been worked off: a sample that comes last is done."""
    service = tinker.ServiceClient(base_url=server.url, api_key=KEY)
    sampler = service.create_sampling_client(base_model=MODEL).result()
    prompt = tinker.ModelInput.from_ints([5, 6, 7])
    sampler.sample(prompt, 1, tinker.SamplingParams(max_tokens=1)).result()
    service.close("success").result()
    return server.memory_bytes()


def _train(server: AbusedServer) -> list[float]:
    """The losses and the greedy answer of a small run with the SDK."""
    service = tinker.ServiceClient(base_url=server.url, api_key=KEY)
    run = service.create_lora_training_client(MODEL, rank=4, seed=7).result()
    told: list[float] = []
    for step in range(3):
        tokens = np.random.default_rng(step).integers(5, 2000, 12)
        datum = tinker.Datum(
            model_input=tinker.ModelInput.from_ints(tokens[:-1].tolist()),
            loss_fn_inputs={"target_tokens": tokens[1:], "weights": np.ones(11, np.float32)},
        )
        told.append(run.forward_backward([datum], "cross_entropy").result().metrics["loss:sum"])
        run.optim_step(tinker.AdamParams(learning_rate=1e-2)).result()
    sampler = run.save_weights_and_get_sampling_client().result()
    params = tinker.SamplingParams(max_tokens=8, temperature=0.0)
    sampled = sampler.sample(tinker.ModelInput.from_ints([5, 6, 7]), 1, params).result()
    told += sampled.sequences[0].tokens
    service.close("success").result()
    return told
