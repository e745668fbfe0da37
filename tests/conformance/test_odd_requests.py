"""No request makes the server fail: what it cannot make sense of is the sender's mistake."""

from __future__ import annotations

import json
import random
import re
from typing import Any

import httpx
import numpy as np
import pytest
from sdk_steps import MODEL
from tinker.proto import tinker_public_pb2 as wire
from tinsmith.api.routes import TINKER_ROUTES

NUM_REQUESTS = 1500
ODD: list[Any] = [
    None,
    True,
    -1,
    2**40,
    2**70,
    1.5,
    "",
    "\x00",
    "\ud800",
    "x" * 5000,
    "tinker://a/weights/b/c",
    [],
    [None],
    [[]],
    {},
    {"type": 5},
    {"chunks": [{"type": "encoded_text", "tokens": ["a"]}]},
    {"chunks": [{"type": "encoded_text", "tokens": [2**40]}]},
    {"rank": 2**40},
    {"stop": {"a": 1}},
    {"temperature": "warm", "seed": 2**70},
]
ODD_PARTS = ["%00", "%ff", "%2e%2e", "a%3fb", "nothing", "a" * 3000]


@pytest.fixture(scope="module")
def places(live_server) -> dict[str, Any]:
    """A body with every field of the API, and what its paths may name."""
    with live_server.http() as http:
        session = http.post("/create_session", json={"tags": []}).json()["session_id"]
        body = {"session_id": session, "model_seq_id": 0, "base_model": MODEL}
        created = http.post("/create_model", json={**body, "lora_config": {"rank": 2}}).json()
        run = http.post("/retrieve_future", json=created).json()["model_id"]
        save = {"model_id": run, "seq_id": 1, "path": "a"}
        saved = http.post("/save_weights", json=save).json()
        path = http.post("/retrieve_future", json=saved).json()["path"]
        body["sampling_session_seq_id"] = 0
        sampler = http.post("/create_sampling_session", json=body).json()["sampling_session_id"]
    body |= save | {
        "lora_config": {"rank": 2},
        "sampling_session_id": sampler,
        "prompt": {"chunks": [{"type": "encoded_text", "tokens": [1, 2]}]},
        "sampling_params": {"max_tokens": 1},
        "num_samples": 1,
        "topk_prompt_logprobs": 1,
        "prompt_logprobs_last_n": 1,
        "adam_params": {"learning_rate": 0.1},
        "request_id": saved["request_id"],
        "tinker_path": path,
        "source_path": path,
        "destination_project_id": "p",
        "project_id": "p",
        "ttl_seconds": 4000,
        "user_metadata": {},
        "optimizer": False,
        "kind": "snapshot",
        "reason": {"type": "success"},
        "tags": [],
        "target": {"sampling_session_id": sampler, "cloned_sampler_id": 0},
        "prev_cursor": 0,
        "timeout": 0,
        "limit": 5,
        "cursor": None,
        "status": None,
    }
    parts = {"session": session, "run": run, "kind": "weights", "name": "a", "sampler": sampler}
    return {"body": body, "parts": {**parts, "path": "manifest.json"}}


def test_no_json_and_no_path_makes_the_server_fail(live_server, places):
    chance = random.Random(0)
    calls = [
        (method, route.path)
        for route in TINKER_ROUTES
        for method in sorted(route.methods - {"HEAD"})  # type: ignore[attr-defined]
        if not route.path.endswith("/finish")  # ends the session that the others are about
    ]
    codes: set[int] = set()
    with live_server.http() as http:
        for _ in range(NUM_REQUESTS):
            method, path = chance.choice(calls)
            parts = dict(places["parts"])
            if chance.random() < 0.3:
                parts[chance.choice(list(parts))] = chance.choice(ODD_PARTS)
            path = re.sub(r"\{(\w+)(:path)?\}", lambda m, parts=parts: parts[m[1]], path)
            body = {**places["body"], chance.choice(list(places["body"])): chance.choice(ODD)}
            answer = http.request(method, path, content=json.dumps(body))
            codes.add(answer.status_code)
            assert answer.status_code < 500, (method, path, answer.text)
            if answer.status_code >= 400:
                assert answer.json().keys() & {"detail", "error", "type"}, (method, path)
    assert {200, 400, 404} <= codes


def test_no_damage_to_a_batch_makes_the_server_fail(live_server, places):
    message = wire.ForwardBackwardRequest(
        model_id=places["body"]["model_id"], loss_fn="cross_entropy"
    )
    datum = message.data.add()
    datum.model_input.add().encoded_text.tokens = np.array([1, 2, 3], np.int32).tobytes()
    for name, array, dtype in (
        ("target_tokens", np.array([2, 3, 4], np.int64), wire.DTYPE_INT64),
        ("weights", np.ones(3, np.float32), wire.DTYPE_FLOAT32),
    ):
        tensor = datum.loss_fn_inputs[name]
        tensor.dense, tensor.dtype = array.tobytes(), dtype
        tensor.shape.append(3)
    chance = random.Random(1)
    codes: set[int] = set()
    with live_server.http() as http:
        for number in range(NUM_REQUESTS):
            message.seq_id = 10 + number
            raw = bytearray(message.SerializeToString())
            for _ in range(chance.randint(1, 2)):
                place = chance.randrange(len(raw))
                raw[place : place + chance.randint(0, 1)] = chance.randbytes(chance.randint(0, 1))
            answer = http.post("/forward_backward", content=bytes(raw))
            codes.add(answer.status_code)
            assert answer.status_code < 500, raw
            if answer.status_code == 200:
                result = outcome_of(http, answer.json())
                assert result.get("category", "user") == "user", result
    assert {200, 400} <= codes


def outcome_of(http: httpx.Client, submitted: dict[str, str]) -> dict[str, str]:
    """The failure of a future; empty for a batch that was computed."""
    answer = http.post("/retrieve_future", json=submitted)
    assert answer.status_code == 200
    is_json = answer.headers["content-type"].startswith("application/json")
    return answer.json() if is_json else {}
