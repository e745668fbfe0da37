"""The unmodified SDK with keys of a server that has some."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import pytest
import tinker
from sdk_steps import MODEL, LiveServer, train
from server_process import serving


def tinsmith(home: Path, *arguments: str) -> str:
    """What the command prints, run on this home folder, beside its server if there is one."""
    command = [sys.executable, "-m", "tinsmith.cli", *arguments, "--home", str(home)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    return done.stdout


MakeKey = Callable[..., str]


def key_maker(home: Path) -> MakeKey:
    def make(project: str, role: str = "owner", *options: str) -> str:
        command = ("keys", "create", "--project", project, "--role", role, *options)
        return tinsmith(home, *command).strip()

    return make


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("keyed") / "home"


@pytest.fixture(scope="module")
def make_key(home: Path) -> MakeKey:
    return key_maker(home)


@pytest.fixture(scope="module")
def anna(make_key: MakeKey) -> str:
    return make_key("anna")


@pytest.fixture(scope="module")
def keyed_server(home: Path, anna: str, model_directory: Path) -> Iterator[LiveServer]:
    """Open to every machine, as far as addresses go; made for no more than these tests."""
    with serving(home, model_directory, MODEL, options=["--host", "0.0.0.0"]) as server:
        yield server


@pytest.fixture(scope="module")
def annas_run(keyed_server: LiveServer, anna: str) -> tinker.TrainingClient:
    service = tinker.ServiceClient(base_url=keyed_server.url, api_key=anna)
    return service.create_lora_training_client(MODEL, rank=4).result()


def test_beyond_loopback_no_server_starts_without_a_key(tmp_path: Path, model_directory: Path):
    command = [sys.executable, "-m", "tinsmith.cli", "serve", "--host", "0.0.0.0", "--port", "0"]
    command += ["--home", str(tmp_path), "--model", f"{MODEL}={model_directory}"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)

    assert done.returncode == 1
    assert f"tinsmith keys create --home {tmp_path}" in done.stderr
    key_id = json.loads(tinsmith(tmp_path, "keys", "create", "--json"))["key_id"]
    tinsmith(tmp_path, "keys", "revoke", key_id)
    again = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert again.returncode == 1
    assert "tinsmith keys create" in again.stderr


def test_a_key_trains_saves_and_samples(annas_run):
    train(annas_run, [1, 2])
    sampler = annas_run.save_weights_and_get_sampling_client().result()
    params = tinker.SamplingParams(max_tokens=2, temperature=0.0)
    answer = sampler.sample(tinker.ModelInput.from_ints([1, 2, 3]), 1, params).result()
    assert len(answer.sequences[0].tokens) == 2


def test_whoami_names_the_project_of_the_key(keyed_server, anna):
    rest = tinker.RestClient(base_url=keyed_server.url, api_key=anna)
    assert rest.whoami().result().user_urn == "tml:organization_user:anna"


@pytest.mark.parametrize("key", ["tml-any", "tml-tinsmith-" + "a" * 42])
def test_an_unknown_key_is_refused_at_once_also_from_this_machine(keyed_server, key):
    with pytest.raises(tinker.AuthenticationError):
        tinker.ServiceClient(base_url=keyed_server.url, api_key=key).create_lora_training_client(
            MODEL
        ).result()


def test_a_member_may_not_delete_and_a_reader_may_not_work(keyed_server, make_key, annas_run):
    path = annas_run.save_state("kept").result().path
    member = tinker.RestClient(base_url=keyed_server.url, api_key=make_key("anna", "member"))
    with pytest.raises(tinker.PermissionDeniedError, match="member, which may not delete"):
        member.delete_checkpoint_from_tinker_path(path).result()
    reading = make_key("anna", "read-only")
    reader = tinker.RestClient(base_url=keyed_server.url, api_key=reading)
    assert path in [one.tinker_path for one in reader.list_user_checkpoints().result().checkpoints]
    exported = annas_run.save_weights_external("exported").result().path
    assert reader.get_external_weights_urls(exported).result().urls
    with pytest.raises(tinker.PermissionDeniedError, match="read-only, which may not train"):
        tinker.ServiceClient(base_url=keyed_server.url, api_key=reading).create_sampling_client(
            base_model=MODEL
        ).result()


def test_a_new_project_sees_nothing_of_anothers(keyed_server, make_key, annas_run):
    boris = tinker.RestClient(base_url=keyed_server.url, api_key=make_key("boris"))
    assert boris.list_training_runs().result().training_runs == []
    with pytest.raises(tinker.NotFoundError):
        boris.get_training_run(annas_run.model_id).result()


def test_a_revoked_key_ends_also_for_a_client_that_holds_a_token(keyed_server, home, make_key):
    key = make_key("carla")
    rest = tinker.RestClient(base_url=keyed_server.url, api_key=key)
    assert rest.list_training_runs().result().training_runs == []
    (key_id,) = (
        one["key_id"]
        for one in json.loads(tinsmith(home, "keys", "list", "--json"))
        if one["project"] == "carla"
    )
    tinsmith(home, "keys", "revoke", key_id)

    with pytest.raises(tinker.AuthenticationError, match="was revoked"):
        for _ in range(100):  # it takes a second
            rest.list_training_runs().result()
            time.sleep(0.1)
    raw = httpx.get(f"{keyed_server.url}/api/v1/sessions", headers={"X-API-Key": key})
    assert raw.status_code == 401
    assert "was revoked" in raw.json()["detail"]


def test_the_audit_log_of_a_day_is_read_through_the_sdk(keyed_server, anna, annas_run):
    path = annas_run.save_state("audited").result().path
    rest = tinker.RestClient(base_url=keyed_server.url, api_key=anna)
    rest.publish_checkpoint_from_tinker_path(path).result()
    admin = tinker.AdminClient(base_url=keyed_server.url, api_key=anna)

    published = None
    while published is None:  # rows come behind the answers
        entries = admin.get_audit_log(event_type="checkpoints").result().entries
        published = next((one for one in entries if one.event == "checkpoint_publish"), None)
    everything = admin.get_audit_log().result().entries
    assert {"key_create", "session_create", "run_create"} <= {entry.event for entry in everything}
    assert published.tinker_path == path
    assert published.model_id == annas_run.model_id
    assert published.event_details["project"] == "anna"


def test_the_command_tells_who_did_what(keyed_server, home, annas_run):
    annas_run.save_state("told").result()  # which waits for the ledger longer than its row
    entries = json.loads(tinsmith(home, "audit", "--project", "anna", "--json"))

    assert entries[0]["action"] == "key_create"
    assert entries[0]["address"].startswith("command line")
    assert "checkpoint_save" in [entry["action"] for entry in entries]
    assert "forward_backward" not in [entry["action"] for entry in entries]
    assert annas_run.model_id in tinsmith(home, "audit")
    assert tinsmith(home, "audit", "--since", "2999-01-01") == ""


def test_an_import_belongs_to_the_project_that_was_named(
    keyed_server, home, anna, make_key, annas_run, tmp_path
):
    path = annas_run.save_state("moved").result().path
    run, kind, name = path.removeprefix("tinker://").split("/")
    place = f"{keyed_server.url}/api/v1/training_runs/{run}/checkpoints/{kind}/{name}/archive"
    archive = tmp_path / "moved.tar.gz"
    archive.write_bytes(httpx.get(place, headers={"X-API-Key": anna}).content)
    model = f"{MODEL}={keyed_server.model_directory}"
    command = ("checkpoints", "import", str(archive), "--project", "dora", "--model", model)
    imported = tinsmith(home, *command).strip()

    dora = tinker.RestClient(base_url=keyed_server.url, api_key=make_key("dora"))
    hers = dora.list_user_checkpoints().result().checkpoints
    assert [one.tinker_path for one in hers] == [imported]


def test_keys_are_kept_as_hashes_and_listed_without_them(keyed_server, home, anna):
    key_files = [file for file in home.rglob("*") if file.is_file()]
    assert len(key_files) > 2
    for file in key_files:
        assert anna.encode() not in file.read_bytes(), file
    listed = tinsmith(home, "keys", "list")
    assert "anna" in listed
    assert anna not in listed
