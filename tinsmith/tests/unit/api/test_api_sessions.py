import pytest


def test_start_up_answers_with_what_the_server_can_do(client):
    config = client.post("/api/v1/client/config", json={"sdk_version": "0.38.0"}).json()
    assert config["parallel_fwdbwd_chunks"] is False
    assert config["sample_max_concurrent_requests"] == 256
    dynamic = client.post("/api/v1/client/dynamic_config", json={}).json()
    assert dynamic == {"sample_cancel_enabled": True}
    models = client.get("/api/v1/get_server_capabilities").json()["supported_models"]
    assert models == [
        {
            "model_name": "org/tiny",
            "max_context_length": 64,
            "trainable": True,
            "sampleable": True,
        }
    ]


def test_a_call_without_a_key_is_refused_with_a_reason(rooms):
    response = rooms.client(key=None).post("/api/v1/client/config", json={})
    assert response.status_code == 401
    assert "X-API-Key" in response.json()["detail"]


@pytest.mark.parametrize("host", ["localhost:1", "127.0.0.1", "[::1]:80", "tinsmith.localhost"])
def test_any_key_is_good_for_a_client_on_this_machine(rooms, host):
    response = rooms.client(key="tml-any", host=host).post("/api/v1/client/config", json={})
    assert response.status_code == 200


@pytest.mark.parametrize("host", ["evil.example", "localhost.evil.example", "10.0.0.7"])
def test_a_foreign_host_name_is_not_local_even_over_loopback(rooms, host):
    response = rooms.client(host=host).post("/api/v1/client/config", json={})
    assert response.status_code == 401


def test_behind_a_proxy_nobody_is_local(rooms):
    response = rooms.client(loopback=False).post("/api/v1/client/config", json={})
    assert response.status_code == 401


def test_login_checks_the_form_of_a_key(rooms):
    assert rooms.client(key="secret").get("/api/v1/auth/apikey/me").status_code == 401
    me = rooms.client(key="tml-x").get("/api/v1/auth/apikey/me").json()
    assert isinstance(me["key_id"], int)
    assert me["details"]["org_details"]["name"] and me["details"]["user_details"]["email"]


def test_a_repeated_create_session_makes_one_session(client):
    def create(key: str) -> str:
        response = client.post(
            "/api/v1/create_session",
            json={"tags": ["a"], "user_metadata": None, "sdk_version": "0.38.0"},
            headers={"X-Idempotency-Key": key},
        )
        return response.json()["session_id"]

    assert create("one") == create("one")
    assert create("one") != create("two")


def test_a_session_lives_until_it_is_finished(client):
    session_id = client.post("/api/v1/create_session", json={}).json()["session_id"]
    beat = {"session_id": session_id}
    assert client.post("/api/v1/session_heartbeat", json=beat).json() == {
        "type": "session_heartbeat"
    }
    assert client.get("/api/v1/sessions").json() == {"sessions": [session_id]}
    finish = client.post(
        f"/api/v1/sessions/{session_id}/finish", json={"reason": {"type": "errored"}, "detail": "x"}
    )
    assert finish.status_code == 200
    ended = client.post("/api/v1/session_heartbeat", json=beat)
    assert ended.status_code == 410
    assert "ended" in ended.json()["detail"]


def test_a_session_shows_its_runs_and_samplers(client, run):
    client.post(
        "/api/v1/create_sampling_session",
        json={
            "session_id": run.session_id,
            "sampling_session_seq_id": 3,
            "base_model": "org/tiny",
        },
    )
    session = client.get(f"/api/v1/sessions/{run.session_id}").json()
    assert session["training_run_ids"] == [run.run_id]
    assert session["sampler_ids"] == [f"{run.session_id}:sample:3"]


@pytest.mark.parametrize("call", ["sessions/none", "training_runs/none", "samplers/none"])
def test_what_is_not_there_is_404(client, call):
    response = client.get(f"/api/v1/{call}")
    assert response.status_code == 404
    assert "none" in response.json()["detail"]


def test_telemetry_is_accepted_whatever_it_holds(client):
    response = client.post("/api/v1/telemetry", content=b"\xff not even JSON")
    assert response.json() == {"status": "accepted"}


@pytest.mark.parametrize(("healthy", "status"), [(True, 200), (False, 503)])
def test_health_is_what_the_models_say_and_needs_no_key(rooms, healthy, status):
    response = rooms.client(key=None, is_healthy=lambda: healthy).get("/api/v1/healthz")
    assert response.status_code == status
    assert (response.json()["status"] == "ok") is healthy
