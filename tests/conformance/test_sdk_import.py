"""Nobody is locked in: what was downloaded comes back, and PEFT adapters come in."""

import io
import json
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path

import numpy as np
import pytest
import tinker
from click.testing import CliRunner, Result
from safetensors.numpy import save_file
from sdk_steps import MODEL, adapter_of, assert_equal_adapters, train
from tinsmith.cli import main

FORWARD_TOLERANCE = 1e-4
"""fp32 on both sides; the two programs add in different orders."""


def import_command(live_server, *arguments: str) -> Result:
    """The command's own code, beside the running server; in this process for speed."""
    return CliRunner().invoke(
        main, ["checkpoints", "import", "--home", str(live_server.home), *arguments]
    )


def imported(live_server, *arguments: str) -> dict:
    result = import_command(live_server, "--json", *arguments)
    assert result.exit_code == 0, (result.output, result.exception)
    return json.loads(result.stdout)


def download(live_server, path: str) -> bytes:
    """As documented: curl with a key."""
    run_id, kind, name = path.removeprefix("tinker://").split("/")
    with live_server.http() as http:
        response = http.get(f"/training_runs/{run_id}/checkpoints/{kind}/{name}/archive")
    assert response.status_code == 200
    return response.content


def test_a_checkpoint_downloaded_deleted_and_imported_trains_on_bit_for_bit(
    live_server, make_run, service, rest, tmp_path
):
    run = make_run(train_unembed=False)
    train(run, [0, 1])
    path = run.save_state("traveller").result().path
    archive = tmp_path / "anything.tar.gz"
    archive.write_bytes(download(live_server, path))
    rest.delete_checkpoint_from_tinker_path(path).result()

    program = str(Path(sys.executable).with_name("tinsmith"))
    child = subprocess.run(
        [program, "checkpoints", "import", str(archive), "--json", "--home", str(live_server.home)],
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )

    assert child.returncode == 0, child.stderr[-2000:]
    found = json.loads(child.stdout)
    assert found["tinker_path"].endswith("/weights/traveller")
    assert (found["with_optimizer"], found["train_unembed"]) == (True, False)
    resumed = service.create_training_client_from_state_with_optimizer(
        found["tinker_path"]
    ).result()
    for one in (run, resumed):
        train(one, [2, 3])
    assert_equal_adapters(adapter_of(run, rest, "stayed"), adapter_of(resumed, rest, "travelled"))
    listed = [one.tinker_path for one in rest.list_user_checkpoints().result().checkpoints]
    assert found["tinker_path"] in listed


def test_an_unpacked_checkpoint_is_imported_under_a_new_name(live_server, run, tmp_path):
    path = run.save_state("to-unpack").result().path
    with tarfile.open(fileobj=io.BytesIO(download(live_server, path))) as archive:
        archive.extractall(tmp_path / "below" / "it", filter="data")
    found = imported(live_server, str(tmp_path), "--name", "renamed")
    assert found["tinker_path"].endswith("/weights/renamed")


def test_a_damaged_download_is_refused_by_the_file_that_is_wrong(live_server, run, tmp_path):
    path = run.save_state("to-damage").result().path
    with tarfile.open(fileobj=io.BytesIO(download(live_server, path))) as archive:
        archive.extractall(tmp_path, filter="data")
    (weights,) = tmp_path.rglob("optimizer.safetensors")
    data = bytearray(weights.read_bytes())
    data[-1] ^= 1
    weights.write_bytes(data)
    child = import_command(live_server, str(tmp_path))
    assert child.exit_code == 1
    assert "optimizer.safetensors" in child.stderr
    assert isinstance(child.exception, SystemExit)
    weights.unlink()
    assert "lacks optimizer.safetensors" in import_command(live_server, str(tmp_path)).stderr


@pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing:FutureWarning")  # peft 0.21
@pytest.mark.parametrize(
    "changes",
    [
        {"r": 6, "lora_alpha": 9, "target_modules": ["q_proj", "v_proj"]},
        {"r": 4, "lora_alpha": 16, "use_rslora": True, "target_modules": ["up_proj", "lm_head"]},
        {
            "r": 2,
            "lora_alpha": 8,
            "target_modules": ["q_proj", "down_proj"],
            "rank_pattern": {"down_proj": 5},
            "alpha_pattern": {"0.self_attn.q_proj": 3},
        },
    ],
    ids=["some attention layers", "rank-stabilised", "mixed ranks"],
)
def test_a_peft_adapter_computes_the_same_here_and_trains_only_its_layers(
    live_server, service, rest, tmp_path, changes
):
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    torch.manual_seed(3)
    base = AutoModelForCausalLM.from_pretrained(live_server.model_directory)
    model = get_peft_model(base, LoraConfig(task_type="CAUSAL_LM", **changes))
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.1)
    model.save_pretrained(tmp_path / "my-adapter", save_embedding_layers=False)
    tokens = [5, 17, 200, 3, 90, 41]
    with torch.no_grad():
        logits = model(torch.tensor([tokens])).logits[0, :-1]
    want = torch.log_softmax(logits.double(), -1)[range(5), tokens[1:]].numpy()

    found = imported(
        live_server,
        str(tmp_path / "my-adapter"),
        "--model",
        f"{MODEL}={live_server.model_directory}",
    )

    assert found["tinker_path"].endswith("/weights/my-adapter")
    run = service.create_training_client_from_state(found["tinker_path"]).result()
    (first,) = adapter_names(adapter_of(run, rest, "as-imported"))
    train(run, [0])
    assert adapter_names(adapter_of(run, rest, "trained")) == [first]
    sampler = service.create_sampling_client(model_path=found["tinker_path"]).result()
    got = sampler.compute_logprobs(tinker.ModelInput.from_ints(tokens)).result()
    np.testing.assert_allclose(got[1:], want, atol=FORWARD_TOLERANCE)


def adapter_names(adapter: dict[str, np.ndarray]) -> list[frozenset[str]]:
    """Names of the layers whose B is not zero, as a list of one."""
    return [frozenset(name for name, array in adapter.items() if "lora_B" in name and array.any())]


@pytest.mark.parametrize(
    ("config", "named"),
    [
        ({"use_dora": True}, "use_dora"),
        ({"peft_type": "IA3"}, "IA3"),
        ({"bias": "all"}, "bias"),
        ({"modules_to_save": ["lm_head"]}, "modules_to_save"),
    ],
)
def test_what_is_no_plain_lora_is_refused_by_name(live_server, run, tmp_path, config, named):
    folder = plain_adapter(tmp_path, config)
    child = import_command(
        live_server, str(folder), "--model", f"{MODEL}={live_server.model_directory}"
    )
    assert child.exit_code == 1
    assert named in child.stderr
    assert isinstance(child.exception, SystemExit)


def plain_adapter(parent, config=None, layer="model.layers.0.self_attn.q_proj"):
    folder = parent / "adapter"
    folder.mkdir()
    settings = {"peft_type": "LORA", "r": 2, "lora_alpha": 4, **(config or {})}
    (folder / "adapter_config.json").write_text(json.dumps(settings))
    save_file(
        {
            f"base_model.model.{layer}.lora_A.weight": np.ones((2, 32), np.float32),
            f"base_model.model.{layer}.lora_B.weight": np.ones((32, 2), np.float32),
        },
        folder / "adapter_model.safetensors",
    )
    return folder


def test_an_adapter_of_another_model_is_refused_by_its_layer(live_server, tmp_path):
    folder = plain_adapter(tmp_path, layer="model.layers.9.self_attn.q_proj")
    model = f"{MODEL}={live_server.model_directory}"
    child = import_command(live_server, str(folder), "--model", model)
    assert child.exit_code == 1
    assert "model.layers.9.self_attn.q_proj" in child.stderr
    assert "base model" in import_command(live_server, str(folder)).stderr
    (folder / "adapter_model.safetensors").unlink()
    assert "lacks adapter_model.safetensors" in import_command(live_server, str(folder)).stderr


def test_a_home_without_a_server_takes_imports_that_a_later_server_finds(
    live_server, run, tmp_path
):
    from tinsmith.checkpoints.store import CheckpointStore
    from tinsmith.domain.addresses import CheckpointAddress
    from tinsmith.ledger.ledger import Ledger

    path = run.save_state("to-move").result().path
    archive = tmp_path / "moved.tar.gz"
    archive.write_bytes(download(live_server, path))
    home = tmp_path / "other home"
    elsewhere = type(live_server)(live_server.url, home, live_server.model_directory, home)
    address = CheckpointAddress.parse(imported(elsewhere, str(archive))["tinker_path"])

    ledger, store = Ledger.open(home / "ledger.db"), CheckpointStore(home / "checkpoints")
    assert store.sweep(lambda one: ledger.checkpoint(one) is not None) == 0
    assert store.read_optimizer(address)
    ledger.close()
    shutil.rmtree(home)
