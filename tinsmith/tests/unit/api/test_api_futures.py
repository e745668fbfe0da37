import threading
import time

import pytest
from starlette.testclient import TestClient


def poll(client: TestClient, request_id: str, **headers):
    return client.post("/api/v1/retrieve_future", json={"request_id": request_id}, headers=headers)


def test_a_poll_is_held_until_the_result_is_there(rooms, client, run):
    rooms.clerk.may_work.clear()
    request_id = run.submit("optim_step", adam_params={})
    threading.Timer(0.3, rooms.clerk.may_work.set).start()
    started = time.monotonic()
    response = poll(client, request_id)
    assert response.status_code == 200
    assert 0.25 < time.monotonic() - started < 3.0


def test_a_poll_without_a_result_says_try_again_after_its_hold_and_not_before(rooms, run):
    rooms.clerk.may_work.clear()
    request_id = run.submit("optim_step", adam_params={})
    with rooms.client(poll_hold_s=0.3) as impatient:
        started = time.monotonic()
        response = poll(impatient, request_id)
    assert 0.25 < time.monotonic() - started < 3.0
    assert response.status_code == 408
    assert response.json() == {
        "type": "try_again",
        "request_id": request_id,
        "queue_state": "active",
    }


def test_a_result_can_be_read_again(client, run):
    request_id = run.submit("optim_step", adam_params={})
    assert poll(client, request_id).json() == poll(client, request_id).json()


def test_a_sample_that_is_gone_is_410_and_any_other_future_404(client):
    gone = poll(client, "s:sample:0#4", **{"X-Tinker-Request-Type": "Sample"})
    assert gone.status_code == 410
    assert poll(client, "s:sample:0#4").status_code == 410
    assert poll(client, "s:train:0#4").status_code == 404
    lost = poll(client, "s:train:0#4", **{"X-Tinker-Request-Type": "OptimStep"})
    assert lost.status_code == 404


@pytest.mark.parametrize("body", [{}, {"request_id": 5}, {"request_id": ""}, []])
def test_a_poll_that_names_no_request_is_400(client, body):
    assert client.post("/api/v1/retrieve_future", json=body).status_code == 400


def cancel(client: TestClient, request_id: str) -> int:
    response = client.post("/api/v1/cancel_future", json={"request_id": request_id})
    return response.status_code


def test_a_cancelled_sample_ends_at_once_and_for_good(rooms, client, run):
    created = client.post(
        "/api/v1/create_sampling_session",
        json={
            "session_id": run.session_id,
            "sampling_session_seq_id": 0,
            "base_model": "org/tiny",
        },
    ).json()
    rooms.clerk.may_work.clear()
    request_id = client.post(
        "/api/v1/asample",
        json={
            "sampling_session_id": created["sampling_session_id"],
            "seq_id": 0,
            "prompt": {"chunks": [{"type": "encoded_text", "tokens": [1, 2]}]},
            "sampling_params": {"max_tokens": 2},
        },
    ).json()["request_id"]
    threading.Timer(0.2, cancel, (client, request_id)).start()
    started = time.monotonic()
    answer = poll(client, request_id).json()
    assert time.monotonic() - started < 3.0
    assert answer == {"error": "cancelled by its client", "category": "user"}
    rooms.clerk.may_work.set()
    run.do("optim_step", adam_params={})  # whatever waited before it has been settled now
    assert poll(client, request_id).json() == answer
    assert cancel(client, request_id) == 200


def test_only_samples_of_ones_own_are_cancelled(rooms, client, run):
    rooms.clerk.may_work.clear()
    request_id = run.submit("optim_step", adam_params={})
    assert cancel(client, request_id) == 200
    rooms.clerk.may_work.set()
    assert "metrics" in poll(client, request_id).json()
    assert cancel(client, "s:sample:0#1") == 404


def test_a_poll_says_when_a_model_is_not_there_to_work(rooms, run):
    rooms.clerk.may_work.clear()
    request_id = run.submit("optim_step", adam_params={})
    with rooms.client(poll_hold_s=0.1, is_healthy=lambda: False) as waiting:
        answer = poll(waiting, request_id).json()
    assert answer["queue_state"] == "paused_capacity"
    assert "loaded or restarted" in answer["queue_state_reason"]
