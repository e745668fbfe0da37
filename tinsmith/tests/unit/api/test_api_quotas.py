"""Statuses, headers and queue states, by which the SDK waits or raises."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from tinsmith.domain.projects import LOCAL_PROJECT
from tinsmith.ledger.ledger import Ledger

SAMPLE = {
    "num_samples": 1,
    "prompt": {"chunks": [{"type": "encoded_text", "tokens": [1, 2, 3, 4]}]},
    "sampling_params": {"max_tokens": 4},
}


@pytest.fixture
def set_quotas(rooms) -> Callable[..., None]:
    """To be called before the first request of a test: they are remembered for a second."""

    def change(**quotas: float) -> None:
        ledger = Ledger.open(rooms.config.home / "ledger.db")
        ledger.change_project(LOCAL_PROJECT, quotas=quotas)
        ledger.close()

    return change


def sampler_of(client, session_id: str) -> str:
    body = {"session_id": session_id, "sampling_session_seq_id": 0, "base_model": "org/tiny"}
    return client.post("/api/v1/create_sampling_session", json=body).json()["sampling_session_id"]


def sample(client, sampler_id: str, seq_id: int, **changes):
    body = {"sampling_session_id": sampler_id, "seq_id": seq_id, **SAMPLE, **changes}
    return client.post("/api/v1/asample", json=body)


def test_a_lasting_quota_is_400_on_creations_and_samples(set_quotas, client, start):
    set_quotas(rank=4, sequence_tokens=7, live_runs=1)
    session_id = start(client).session_id

    def create(number: int, rank: int):
        return client.post(
            "/api/v1/create_model",
            json={
                "session_id": session_id,
                "model_seq_id": number,
                "base_model": "org/tiny",
                "lora_config": {"rank": rank},
            },
        )

    too_high = create(1, 5)
    assert too_high.status_code == 400
    assert "rank 5 is above this project's quota: rank 4" in too_high.json()["detail"]
    one_more = create(1, 4)
    assert one_more.status_code == 400
    assert "live_runs 1" in one_more.json()["detail"]
    assert create(0, 4).status_code == 200  # a repeat
    too_long = sample(client, sampler_of(client, session_id), 0)
    assert too_long.status_code == 400
    assert "sequence_tokens 7" in too_long.json()["detail"]


def test_tokens_per_minute_are_429_with_the_time_to_wait_and_polls_say_why(
    set_quotas, rooms, client, start
):
    set_quotas(tokens_per_minute=2)
    run = start(client)
    sampler_id = sampler_of(client, run.session_id)
    rooms.clerk.may_work.clear()
    taken_in = sample(client, sampler_id, 0)
    assert taken_in.status_code == 200

    refused = sample(client, sampler_id, 1)
    assert refused.status_code == 429
    assert 1 <= int(refused.headers["Retry-After"]) <= 60
    assert "tokens_per_minute 2" in refused.json()["detail"]
    assert run.submit("optim_step", adam_params={})  # has no tokens
    with rooms.client(poll_hold_s=0.1) as impatient:
        answer = impatient.post(
            "/api/v1/retrieve_future", json={"request_id": taken_in.json()["request_id"]}
        )
    assert answer.status_code == 408
    assert answer.json()["queue_state"] == "paused_rate_limit"
    assert "tokens_per_minute 2" in answer.json()["queue_state_reason"]


def test_a_full_queue_is_429_and_polls_say_why(set_quotas, rooms, client, start):
    set_quotas(queued_ops=1)
    run = start(client)
    rooms.clerk.may_work.clear()
    request_id = run.submit("optim_step", adam_params={})

    body = {"model_id": run.run_id, "seq_id": 2, "adam_params": {}}
    refused = client.post("/api/v1/optim_step", json=body)
    assert refused.status_code == 429
    assert int(refused.headers["Retry-After"]) >= 1
    with rooms.client(poll_hold_s=0.1) as impatient:
        answer = impatient.post("/api/v1/retrieve_future", json={"request_id": request_id})
    assert answer.json()["queue_state"] == "paused_capacity"
    assert "may; repeat" in answer.json()["queue_state_reason"]


def test_metrics_tell_what_is_on_disk(client, run):
    run.do("save_weights", path="a")
    (stored,) = [
        line
        for line in client.get("/metrics").text.splitlines()
        if line.startswith("tinsmith_project_stored_bytes") and 'kind="checkpoints"' in line
    ]
    size = client.get("/api/v1/checkpoints").json()["checkpoints"][0]["size_bytes"]

    assert (
        stored
        == f'tinsmith_project_stored_bytes{{kind="checkpoints",project="local"}} {float(size)}'
    )
