"""No model brings code in: no pickles, and no Python of its own unless the operator names it."""

from __future__ import annotations

import ast
import json
from pathlib import Path

import pytest
import torch
from tinsmith.base_models import resolve
from tinsmith.config import Config
from tinsmith.domain.errors import InvalidInputError
from tinsmith.engine.base_model import BaseModel
from tinsmith.engine.checkpoint_import import import_checkpoint
from transformers import Qwen3Config, Qwen3ForCausalLM

import tinsmith

RUNS_CODE = {"pickle", "dill", "cloudpickle", "joblib", "shelve", "marshal", "runpy", "yaml"}
MODELING = """\
from pathlib import Path
from transformers import Qwen3Config, Qwen3ForCausalLM
Path(__file__).with_name("ran").touch()
Path({marker!r}).touch()
class OwnConfig(Qwen3Config):
    model_type = "own"
class OwnForCausalLM(Qwen3ForCausalLM):
    config_class = OwnConfig
"""


def test_nothing_in_the_sources_reads_pickles_or_trusts_by_default():
    found = [
        f"{path.name}:{node.lineno} {ast.unparse(node)[:100]}"
        for path in sorted(Path(tinsmith.__file__).parent.rglob("*.py"))
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Import | ast.ImportFrom | ast.Call) and _brings_code_in(node)
    ]
    assert found == []


def _brings_code_in(node: ast.Import | ast.ImportFrom | ast.Call) -> bool:
    if isinstance(node, ast.Import):
        return bool({alias.name.partition(".")[0] for alias in node.names} & RUNS_CODE)
    if isinstance(node, ast.ImportFrom):
        return (node.module or "").partition(".")[0] in RUNS_CODE
    function, whole = ast.unparse(node.func), ast.unparse(node)
    if function.startswith("Auto") and function.endswith((".from_pretrained", ".from_config")):
        is_of_weights = function == "AutoModelForCausalLM.from_pretrained"
        return "trust_remote_code=" not in whole or (
            is_of_weights and "use_safetensors=True" not in whole
        )
    # multiprocessing's connections pickle what they send and recv, not what they send_bytes.
    return (
        function in ("torch.load", "eval", "exec", "compile", "__import__")
        or function.endswith(("_connection.recv", "_connection.send"))
        or "allow_pickle=" in whole
    )


@pytest.fixture
def tiny() -> Qwen3ForCausalLM:
    torch.manual_seed(0)
    return Qwen3ForCausalLM(
        Qwen3Config(
            vocab_size=64,
            hidden_size=32,
            intermediate_size=48,
            num_hidden_layers=2,
            num_attention_heads=4,
            num_key_value_heads=2,
            head_dim=8,
            max_position_embeddings=64,
        )
    )


@pytest.fixture
def marker(tmp_path: Path) -> Path:
    return tmp_path / "ran"


@pytest.fixture
def with_code(tiny: Qwen3ForCausalLM, tmp_path: Path, marker: Path) -> Path:
    """A model of a kind that only its own code knows."""
    folder = tmp_path / "with code"
    tiny.save_pretrained(folder)
    (folder / "modeling_own.py").write_text(MODELING.format(marker=str(marker)))
    config = json.loads((folder / "config.json").read_text())
    classes = {
        "AutoConfig": "modeling_own.OwnConfig",
        "AutoModelForCausalLM": "modeling_own.OwnForCausalLM",
    }
    (folder / "config.json").write_text(
        json.dumps({**config, "model_type": "own", "auto_map": classes})
    )
    return folder


def test_code_of_a_model_does_not_run(with_code: Path, marker: Path):
    with pytest.raises(InvalidInputError, match="--trust-remote-code NAME"):
        BaseModel.load(with_code)
    assert not marker.exists()


def test_code_of_a_model_runs_for_who_names_it(
    with_code: Path, marker: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
):
    monkeypatch.setattr("transformers.dynamic_module_utils.HF_MODULES_CACHE", str(tmp_path / "m"))
    assert BaseModel.load(with_code, trust_remote_code=True).num_layers == 2
    assert marker.exists()


def test_an_import_runs_no_code_of_the_base_model(with_code: Path, marker: Path, tmp_path: Path):
    from safetensors.torch import save_file

    adapter = tmp_path / "adapter"
    adapter.mkdir()
    (adapter / "adapter_config.json").write_text('{"peft_type": "LORA"}')
    save_file({"a": torch.ones(1)}, adapter / "adapter_model.safetensors")
    with pytest.raises(InvalidInputError, match="base model"):
        import_checkpoint(
            Config(home=tmp_path / "home"), adapter, owner="local", model=f"own={with_code}"
        )
    assert not marker.exists()


@pytest.mark.parametrize("name", ["pytorch_model.bin", "consolidated.00.pth"])
def test_pickled_weights_are_refused(tiny: Qwen3ForCausalLM, tmp_path: Path, name: str):
    tiny.config.save_pretrained(tmp_path)
    torch.save(tiny.state_dict(), tmp_path / name)
    with pytest.raises(InvalidInputError, match="pickles"):
        resolve(f"a/b={tmp_path}")
    with pytest.raises(InvalidInputError, match="safetensors"):
        BaseModel.load(tmp_path)


def test_safetensors_beside_pickles_are_taken(tiny: Qwen3ForCausalLM, tmp_path: Path):
    tiny.save_pretrained(tmp_path)
    (tmp_path / "pytorch_model.bin").write_bytes(b"not read")
    assert resolve(f"a/b={tmp_path}").vocab_size == 64
    assert BaseModel.load(tmp_path).num_layers == 2
