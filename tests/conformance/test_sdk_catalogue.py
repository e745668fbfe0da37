"""Lists, downloads and the `tinker` command line."""

import io
import json
import shutil
import subprocess
import sys
import tarfile
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import tinker
from click.testing import CliRunner
from safetensors.numpy import load as load_safetensors
from sdk_steps import KEY, MODEL, adapter_of, assert_equal_adapters, train
from tinker.cli.__main__ import main_cli


@pytest.fixture(scope="module")
def trained(make_run) -> tinker.TrainingClient:
    run = make_run(user_metadata={"purpose": "catalogue"})
    train(run, [0])
    return run


@pytest.fixture(scope="module")
def state(trained) -> str:
    return trained.save_state("state", user_metadata={"step": "1"}).result().path


@pytest.fixture(scope="module")
def export(trained) -> str:
    return trained.save_weights_external("export").result().path


def tinker_command(live_server, *arguments: str) -> dict:
    """What `tinker --format json ...` prints; its own code, run in this process for speed."""
    result = CliRunner().invoke(
        main_cli, ["--format", "json", *arguments], env=live_server.environment()
    )
    assert result.exit_code == 0, (result.output, result.exception)
    return json.loads(result.stdout) if result.stdout.strip() else {}


def test_capabilities_name_the_model_and_its_context(rest):
    (model,) = rest.get_server_capabilities().result().supported_models
    assert (model.model_name, model.max_context_length) == (MODEL, 512)
    assert model.trainable and model.sampleable


def test_runs_and_sessions_are_listed(rest, trained, state):
    run = rest.get_training_run(trained.model_id).result()
    assert (run.base_model, run.lora_rank, run.corrupted) == (MODEL, 4, False)
    assert run.user_metadata == {"purpose": "catalogue"}
    assert run.last_checkpoint is not None
    assert run.last_checkpoint.tinker_path == state
    page = rest.list_training_runs(limit=100).result()
    assert trained.model_id in [one.training_run_id for one in page.training_runs]
    assert page.cursor.total_count >= len(page.training_runs)
    session_id = trained.model_id.partition(":")[0]
    assert trained.model_id in rest.get_session(session_id).result().training_run_ids
    assert session_id in rest.list_sessions(limit=1000).result().sessions


def test_publish_ttl_and_delete_change_the_listed_checkpoint(rest, make_run):
    run = make_run()
    path = run.save_state("passing", ttl_seconds=7200).result().path

    def read() -> tinker.types.Checkpoint:
        (one,) = rest.list_checkpoints(run.model_id).result().checkpoints
        return one

    assert abs(read().expires_at - datetime.now(UTC) - timedelta(hours=2)) < timedelta(minutes=1)
    rest.publish_checkpoint_from_tinker_path(path).result()
    rest.set_checkpoint_ttl_from_tinker_path(path, None).result()
    assert read().public
    assert read().expires_at is None
    rest.unpublish_checkpoint_from_tinker_path(path).result()
    assert not read().public
    info = rest.get_weights_info_by_tinker_path(path).result()
    assert (info.base_model, info.lora_rank, info.train_unembed) == (MODEL, 4, True)
    rest.delete_checkpoint_from_tinker_path(path).result()
    assert rest.list_checkpoints(run.model_id).result().checkpoints == []
    with pytest.raises(tinker.NotFoundError):
        rest.get_weights_info_by_tinker_path(path).result()


def test_what_checkpoints_take_on_disk_is_told_by_project(live_server, rest):
    with tinker.ServiceClient(base_url=live_server.url, api_key=KEY) as service:
        run = service.create_lora_training_client(MODEL, rank=2).result()
        run.save_state("kept").result()
        run.save_weights_external("out").result()
        gone = run.save_weights_for_sampler("gone").result().path
        rest.delete_checkpoint_from_tinker_path(gone).result()
        rest.assign_session_project(run.model_id.partition(":")[0], "weighed").result()
    sizes = [one.size_bytes for one in rest.list_checkpoints(run.model_id).result().checkpoints]
    admin = tinker.AdminClient(base_url=live_server.url, api_key=KEY)
    (use,) = admin.get_current_checkpoint_storage_usage(project_id="weighed").result().data
    assert (use.project_id, use.checkpoint_count) == ("weighed", 2)
    assert use.size_bytes == sum(sizes)
    assert use.estimated_monthly_cost_usd is None
    everything = admin.get_current_checkpoint_storage_usage().result().data
    assert sum(one.size_bytes for one in everything) >= sum(sizes)
    assert "weighed" in json.dumps(tinker_command(live_server, "billing", "checkpoint-storage"))


def test_the_command_line_shows_runs_checkpoints_and_models(live_server, trained, state, export):
    runs = tinker_command(live_server, "run", "list", "--limit", "0")["runs"]
    assert trained.model_id in [run["training_run_id"] for run in runs]
    assert trained.model_id in json.dumps(
        tinker_command(live_server, "run", "info", trained.model_id)
    )
    listed = tinker_command(live_server, "checkpoint", "list", "--run-id", trained.model_id)
    assert {state, export} <= {one["tinker_path"] for one in listed["checkpoints"]}
    listed = tinker_command(live_server, "checkpoint", "list", "--limit", "0")
    assert {state, export} <= {one["tinker_path"] for one in listed["checkpoints"]}
    assert state in json.dumps(tinker_command(live_server, "checkpoint", "info", state))
    assert MODEL in json.dumps(tinker_command(live_server, "model", "list"))


def test_the_command_line_checks_and_stores_a_key(live_server, tmp_path):
    environment = live_server.environment(HOME=str(tmp_path), XDG_CONFIG_HOME=str(tmp_path))
    for key, is_good in (("secret", False), ("tml-mine", True)):
        login = CliRunner().invoke(main_cli, ["auth", "login"], input=f"{key}\n", env=environment)
        assert (login.exit_code == 0) is is_good, login.output
    status = CliRunner().invoke(main_cli, ["auth", "status"], env=environment)
    assert "Tinker accessible: yes" in status.output


def test_the_command_line_publishes_expires_and_deletes(live_server, trained, rest):
    path = trained.save_state("by-command").result().path
    tinker_command(live_server, "checkpoint", "publish", path)
    tinker_command(live_server, "checkpoint", "set-ttl", path, "--ttl", "7200")
    listed = rest.list_checkpoints(trained.model_id).result().checkpoints
    (one,) = [checkpoint for checkpoint in listed if checkpoint.tinker_path == path]
    assert one.public
    assert one.expires_at is not None
    tinker_command(live_server, "checkpoint", "unpublish", path)
    listed = rest.list_checkpoints(trained.model_id).result().checkpoints
    assert not any(checkpoint.public for checkpoint in listed)
    tinker_command(live_server, "checkpoint", "delete", "--yes", path)
    listed = rest.list_checkpoints(trained.model_id).result().checkpoints
    assert path not in [checkpoint.tinker_path for checkpoint in listed]


def test_the_installed_command_downloads_a_training_checkpoint_as_a_peft_folder(
    live_server, trained, rest, state, tmp_path
):
    program = str(Path(sys.executable).with_name("tinker"))
    child = subprocess.run(
        [program, "checkpoint", "download", state, "--output", str(tmp_path)],
        env=live_server.environment(),
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    assert child.returncode == 0, child.stderr[-2000:] + child.stdout[-2000:]
    check_peft_folder(tmp_path, adapter_of(trained, rest, "against-state"))


def test_the_command_line_downloads_an_export(live_server, trained, rest, export, tmp_path):
    tinker_command(live_server, "checkpoint", "download", export, "--output", str(tmp_path))
    check_peft_folder(tmp_path, adapter_of(trained, rest, "against-export"))


def check_peft_folder(parent: Path, adapter: dict) -> None:
    (folder,) = parent.iterdir()
    config = json.loads((folder / "adapter_config.json").read_text())
    assert (config["peft_type"], config["r"], config["lora_alpha"]) == ("LORA", 4, 32)
    weights = load_safetensors((folder / "adapter_model.safetensors").read_bytes())
    assert_equal_adapters(weights, adapter)


@pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing:FutureWarning")  # peft 0.21
def test_an_archive_over_plain_http_unpacks_to_a_peft_folder_that_peft_loads(
    live_server, export, tmp_path
):
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    run_id, kind, name = export.removeprefix("tinker://").split("/")
    with live_server.http() as http:
        response = http.get(f"/training_runs/{run_id}/checkpoints/{kind}/{name}/archive")
    assert response.status_code == 200
    with tarfile.open(fileobj=io.BytesIO(response.content), mode="r:gz") as archive:
        archive.extractall(tmp_path, filter="data")
    (config,) = tmp_path.rglob("adapter_config.json")
    base = AutoModelForCausalLM.from_pretrained(live_server.model_directory)
    adapted = PeftModel.from_pretrained(base, config.parent)
    assert any("lora_A" in name for name, _ in adapted.named_parameters())


def test_downloads_carry_no_key_and_forged_ones_are_refused(live_server, rest, export):
    urls = rest.get_external_weights_urls(export).result().urls
    url = urls["adapter_config.json"]
    assert url.startswith(live_server.url)
    with live_server.http(key=None) as http:
        assert http.get(url).status_code == 200
        assert http.get(url.replace("adapter_config.json", "manifest.json")).status_code == 401


def test_the_command_line_pushes_a_peft_folder_with_a_card_to_the_hub(
    live_server, trained, rest, export, tmp_path, monkeypatch
):
    class Hub:
        """The hub's client, which is not ours, as far as the command uses it."""

        def whoami(self) -> dict:
            return {"name": "me"}

        def create_repo(self, **settings) -> None:
            assert settings["repo_id"] == "me/adapter"
            assert settings["private"]

        def upload_folder(self, *, folder_path, **settings) -> None:
            shutil.copytree(folder_path, tmp_path / "pushed")

    def nothing_there(**settings) -> str:
        raise OSError("this repository is new")

    monkeypatch.setattr("huggingface_hub.HfApi", Hub)
    monkeypatch.setattr("huggingface_hub.hf_hub_download", nothing_there)

    tinker_command(live_server, "checkpoint", "push-hf", export, "--repo", "me/adapter")

    check_peft_folder(tmp_path, adapter_of(trained, rest, "against-pushed"))
    assert MODEL in (tmp_path / "pushed" / "README.md").read_text()
