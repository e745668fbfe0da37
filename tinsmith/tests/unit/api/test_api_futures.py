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


def test_cancelling_is_accepted(client, run):
    request_id = run.submit("optim_step", adam_params={})
    response = client.post("/api/v1/cancel_future", json={"request_id": request_id})
    assert response.status_code == 200
