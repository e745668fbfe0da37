import io
import tarfile
from datetime import UTC, datetime, timedelta

import pytest
from tinker import types
from tinker.types.checkpoints_list_response import CheckpointsListResponse
from tinker.types.training_runs_response import TrainingRunsResponse


@pytest.fixture
def saved(run) -> str:
    """The path below /api/v1 of a checkpoint for download."""
    run.do("save_weights", path="state", user_metadata={"step": "3"})
    run.do("save_weights_for_sampler", path="sampler", kind="snapshot")
    run.do("save_weights_for_sampler", sampling_session_seq_id=0, kind="snapshot")
    run.do("save_weights_external", path="export")
    return f"/api/v1/training_runs/{run.run_id}/checkpoints/external_weights/export"


def test_the_sdk_reads_the_list_of_runs(client, run, saved):
    page = TrainingRunsResponse.model_validate(client.get("/api/v1/training_runs?limit=5").json())
    assert (page.cursor.limit, page.cursor.offset, page.cursor.total_count) == (5, 0, 1)
    listed = page.training_runs[0]
    assert (listed.training_run_id, listed.base_model, listed.lora_rank) == (
        run.run_id,
        "org/tiny",
        4,
    )
    assert listed.last_checkpoint is not None
    assert listed.last_checkpoint.tinker_path == f"tinker://{run.run_id}/weights/state"
    assert listed.last_sampler_checkpoint is not None
    assert listed.last_sampler_checkpoint.checkpoint_id == "sampler_weights/sampler"
    one = types.TrainingRun.model_validate(client.get(f"/api/v1/training_runs/{run.run_id}").json())
    assert one == listed


def test_the_sdk_reads_the_list_of_checkpoints_newest_first_without_unnamed_ones(
    client, run, saved
):
    page = CheckpointsListResponse.model_validate(client.get("/api/v1/checkpoints").json())
    of_run = CheckpointsListResponse.model_validate(
        client.get(f"/api/v1/training_runs/{run.run_id}/checkpoints").json()
    )
    assert [one.checkpoint_id for one in page.checkpoints] == [
        "external_weights/export",
        "sampler_weights/sampler",
        "weights/state",
    ]
    assert [one.checkpoint_type for one in page.checkpoints] == ["external", "sampler", "training"]
    assert page.checkpoints[2].user_metadata == {"step": "3"}
    assert page.checkpoints[0].size_bytes and page.checkpoints[0].size_bytes > 0
    assert page.cursor is not None
    assert page.cursor.total_count == 3
    assert of_run.checkpoints == page.checkpoints


@pytest.mark.parametrize("query", ["limit=-1", "limit=x", "offset=1e3", "limit=99999999999"])
def test_a_page_that_makes_no_sense_is_400(client, query):
    assert client.get(f"/api/v1/training_runs?{query}").status_code == 400


def test_publish_expire_and_delete_act_on_the_named_checkpoint(client, run, saved):
    assert client.post(f"{saved}/publish").status_code == 204
    assert client.put(f"{saved}/ttl", json={"ttl_seconds": 3600}).status_code == 204

    def read() -> types.Checkpoint:
        page = client.get("/api/v1/checkpoints").json()
        return CheckpointsListResponse.model_validate(page).checkpoints[0]

    assert read().public
    expires_at = read().expires_at
    assert expires_at is not None
    assert abs(expires_at - datetime.now(UTC) - timedelta(hours=1)) < timedelta(minutes=1)
    assert client.delete(f"{saved}/publish").status_code == 204
    assert client.put(f"{saved}/ttl", json={"ttl_seconds": None}).status_code == 204
    assert not read().public
    assert read().expires_at is None
    assert client.delete(saved).status_code == 204
    assert read().checkpoint_id == "sampler_weights/sampler"
    assert client.delete(saved).status_code == 404


def test_a_ttl_out_of_range_is_400(client, saved):
    assert client.put(f"{saved}/ttl", json={"ttl_seconds": 5}).status_code == 400


def test_deleting_a_list_is_not_a_call(client, run, saved):
    response = client.delete(f"/api/v1/training_runs/{run.run_id}/checkpoints")
    assert response.status_code == 405
    assert "DELETE" in response.json()["detail"]
    assert client.get("/api/v1/checkpoints").json()["cursor"]["total_count"] == 3


@pytest.mark.parametrize("place", ["nonsense/export", "weights/..%2f..", "weights/%2e%2e"])
def test_addresses_that_are_none_touch_nothing(client, run, saved, place):
    response = client.delete(f"/api/v1/training_runs/{run.run_id}/checkpoints/{place}")
    assert response.status_code in (400, 404, 405)
    assert client.get("/api/v1/checkpoints").json()["cursor"]["total_count"] == 3


def test_weights_info_tells_how_the_adapter_was_made(client, run, saved):
    path = f"tinker://{run.run_id}/weights/state"
    info = client.post("/api/v1/weights_info", json={"tinker_path": path}).json()
    assert (info["base_model"], info["lora_rank"], info["train_mlp"]) == ("org/tiny", 4, True)
    bad = client.post("/api/v1/weights_info", json={"tinker_path": "tinker://x"})
    assert bad.status_code == 400


def test_download_urls_stand_at_the_callers_address_and_need_no_key(rooms, client, saved):
    spoofed = {"X-Forwarded-Host": "evil.example", "X-Forwarded-Proto": "https"}
    answer = client.get(f"{saved}/external_weights_urls", headers=spoofed).json()
    assert {"adapter_config.json", "adapter_model.safetensors"} <= answer["urls"].keys()
    assert datetime.fromisoformat(answer["expires"]) > datetime.now(UTC) + timedelta(minutes=10)
    url = answer["urls"]["adapter_config.json"]
    assert url.startswith("http://127.0.0.1:8765/api/v1/files/")
    stranger = rooms.client(key=None)
    response = stranger.get(url)
    assert response.status_code == 200
    assert response.json() == {"r": 2}
    assert int(response.headers["content-length"]) == len(response.content)
    assert stranger.get(url.replace("adapter_config.json", "manifest.json")).status_code == 401
    assert stranger.get(url[:-1]).status_code == 401
    assert stranger.get(url.partition("?")[0]).status_code == 401


def test_a_host_header_that_is_no_address_makes_no_urls(client, saved):
    response = client.get(f"{saved}/external_weights_urls", headers={"Host": "a b<c>"})
    assert response.status_code in (400, 401)


def test_an_archive_holds_the_files_and_needs_a_key(rooms, client, saved):
    response = client.get(f"{saved}/archive")
    assert response.headers["content-type"] == "application/gzip"
    with tarfile.open(fileobj=io.BytesIO(response.content)) as tar:
        names = {name.rpartition("/")[2] for name in tar.getnames()}
    assert {"adapter_config.json", "adapter_model.safetensors"} <= names
    assert rooms.client(key=None).get(f"{saved}/archive").status_code == 401
    assert client.get(saved.replace("export", "none") + "/archive").status_code == 404
