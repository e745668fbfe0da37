"""What the SDK itself never sends, and what it sends twice."""

import pytest
import tinker
from sdk_steps import MODEL


@pytest.fixture(scope="module")
def session_id(live_server) -> str:
    with live_server.http() as http:
        return http.post("/create_session", json={"tags": []}).json()["session_id"]


def test_every_submit_repeated_gets_the_same_request(live_server, session_id):
    with live_server.http() as http:

        def twice(call: str, **body) -> dict:
            first, second = (http.post(f"/{call}", json=body) for _ in range(2))
            assert first.status_code == 200, first.text
            assert second.json() == first.json()
            return first.json()

        created = twice(
            "create_model",
            session_id=session_id,
            model_seq_id=0,
            base_model=MODEL,
            lora_config={"rank": 2},
        )
        run_id = f"{session_id}:train:0"
        assert http.post("/retrieve_future", json=created).json()["model_id"] == run_id
        twice("optim_step", model_id=run_id, seq_id=1, adam_params={"learning_rate": 0.1})
        save = twice("save_weights", model_id=run_id, seq_id=2, path="a")
        path = http.post("/retrieve_future", json=save).json()["path"]
        again = twice("load_weights", session_id=session_id, model_seq_id=1, path=path)
        assert http.post("/retrieve_future", json=again).json()["model_id"].endswith(":train:1")
        sampler = twice(
            "create_sampling_session",
            session_id=session_id,
            sampling_session_seq_id=0,
            base_model=MODEL,
        )
        sample = {
            "sampling_session_id": sampler["sampling_session_id"],
            "seq_id": 191733668000000000,
            "prompt": {"chunks": [{"type": "encoded_text", "tokens": [1, 2]}]},
            "sampling_params": {"max_tokens": 1},
        }
        assert len(twice("asample", **sample)["sample_sequence_ids"]) == 1


@pytest.mark.parametrize(
    "call", ["create_model", "forward_backward", "optim_step", "asample", "retrieve_future"]
)
@pytest.mark.parametrize("body", [b"", b"\xff\x00\x01", b"{}", b"[1, 2]"])
def test_garbage_is_refused_with_a_reason(live_server, call, body):
    with live_server.http() as http:
        response = http.post(f"/{call}", content=body)
    assert response.status_code == 400
    assert response.json()["detail"]


@pytest.mark.parametrize("call", ["create_custom_loss", "join_sampling_session", "unload_model"])
def test_a_call_that_is_not_served_is_named(live_server, call):
    with live_server.http() as http:
        response = http.post(f"/{call}", json={})
    assert response.status_code == 404
    assert call in response.json()["detail"]


def test_keys_are_asked_for(live_server):
    with live_server.http(key=None) as http:
        assert http.post("/client/config", json={}).status_code == 401
    with live_server.http(key="not-ours") as http:
        assert http.get("/auth/apikey/me").status_code == 401
    with pytest.raises(tinker.TinkerError):
        tinker.RestClient(base_url=live_server.url, api_key="not-ours").list_sessions().result()


def test_a_finished_session_takes_nothing_new(live_server):
    service = tinker.ServiceClient(base_url=live_server.url, api_key="tml-second")
    run = service.create_lora_training_client(MODEL, rank=2).result()
    service.close("success").result()
    session_id = run.model_id.partition(":")[0]
    with live_server.http() as http:
        heartbeat = http.post("/session_heartbeat", json={"session_id": session_id})
        assert heartbeat.status_code == 410
        body = {"session_id": session_id, "model_seq_id": 5, "base_model": MODEL}
        assert http.post("/create_model", json=body).status_code == 400
