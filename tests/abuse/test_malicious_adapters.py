"""`tinsmith checkpoints import` of what its maker meant ill: refused, and nothing left behind."""

from __future__ import annotations

import hashlib
import io
import json
import struct
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from abused_server import MODEL
from click.testing import CliRunner, Result
from safetensors.numpy import save
from tinsmith.cli import main

LAYER = "base_model.model.model.layers.0.self_attn.q_proj"
WIDTH = 192
Arrays = dict[str, np.ndarray]


def pair(rank: int = 2, fill: float = 1.0) -> Arrays:
    return {
        f"{LAYER}.lora_A.weight": np.full((rank, WIDTH), fill, np.float32),
        f"{LAYER}.lora_B.weight": np.full((WIDTH, rank), fill, np.float32),
    }


def settings_of(changes: dict[str, Any]) -> bytes:
    settings = {"peft_type": "LORA", "r": 2, "lora_alpha": 4, "base_model_name_or_path": MODEL}
    return json.dumps({**settings, **changes}).encode()


def tar_of(path: Path, files: dict[str, bytes]) -> Path:
    with tarfile.open(path, "w") as archive:
        for name, data in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
    return path


def adapter(path: Path, weights: Arrays | bytes, **config: Any) -> Path:
    """As PEFT writes one."""
    data = weights if isinstance(weights, bytes) else save(weights)
    files = {"adapter_config.json": settings_of(config), "adapter_model.safetensors": data}
    return tar_of(path, files)


def own(path: Path, details: dict[str, Any], weights: Arrays) -> Path:
    """What looks like a training checkpoint of a tinsmith, with digests that are right."""
    files = {
        "adapter_config.json": settings_of({"lora_alpha": 32}),
        "adapter_model.safetensors": save(weights),
        "optimizer.safetensors": save({"step": np.array([1])}),
    }
    listed = {name: {"sha256": hashlib.sha256(data).hexdigest()} for name, data in files.items()}
    files["manifest.json"] = json.dumps({"files": listed, "details": details}).encode()
    return tar_of(path, files)


def imported(home: Path, source: Path) -> Result:
    command = ["checkpoints", "import", str(source), "--home", str(home), "--model", MODEL]
    return CliRunner().invoke(main, command)


def assert_refused(home: Path, source: Path, *words: str) -> None:
    result = imported(home, source)
    assert result.exit_code == 1 and isinstance(result.exception, SystemExit), result.exception
    assert all(word in result.output for word in words), result.output
    assert [path for path in home.rglob("*.safetensors*")] == []


def test_a_harmless_one_is_taken(tmp_path: Path):
    result = imported(tmp_path / "home", adapter(tmp_path / "fine.tar", pair()))
    assert result.exit_code == 0, result.output


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_numbers_that_are_none(tmp_path: Path, value: float):
    source = adapter(tmp_path / "x.tar", pair(fill=value))
    assert_refused(tmp_path / "home", source, "NaN or infinity", "q_proj")


@pytest.mark.parametrize("dtype", [np.bool_, np.int8, np.uint64, np.complex64])
def test_odd_dtypes(tmp_path: Path, dtype: Any):
    weights = {name: array.astype(dtype) for name, array in pair().items()}
    assert_refused(tmp_path / "home", adapter(tmp_path / "x.tar", weights), "stored as")


@pytest.mark.parametrize("shape", [(2,), (0, WIDTH), (2, WIDTH + 1), (2, WIDTH, 1), ()])
def test_odd_shapes(tmp_path: Path, shape: tuple[int, ...]):
    weights = {**pair(), f"{LAYER}.lora_A.weight": np.ones(shape, np.float32)}
    assert_refused(tmp_path / "home", adapter(tmp_path / "x.tar", weights), "q_proj")


def test_a_rank_beyond_the_limit(tmp_path: Path):
    assert_refused(tmp_path / "home", adapter(tmp_path / "x.tar", pair(rank=257)), "rank is 257")


@pytest.mark.parametrize(
    "header",
    [
        b"{}" * 10,
        b"[" * 10_000,
        json.dumps({"a": {"dtype": "F99", "shape": [1], "data_offsets": [0, 4]}}).encode(),
        json.dumps({"a": {"dtype": "F32", "shape": [2**62, 2], "data_offsets": [0, 4]}}).encode(),
        json.dumps({"a": {"dtype": "F32", "shape": [1], "data_offsets": [0, 2**60]}}).encode(),
    ],
)
def test_broken_weights(tmp_path: Path, header: bytes):
    weights = struct.pack("<Q", len(header)) + header + bytes(4)
    source = adapter(tmp_path / "x.tar", weights)
    assert_refused(tmp_path / "home", source, "adapter_model.safetensors")


@pytest.mark.parametrize(
    ("config", "word"),
    [
        ({"alpha_pattern": {"(a+)+$": 3}}, "alpha_pattern"),
        ({"alpha_pattern": {".*" * 20 + "!": 3}}, "alpha_pattern"),
        ({"alpha_pattern": {"(": 3}}, "alpha_pattern"),
        ({"alpha_pattern": [1]}, "alpha_pattern"),
        ({"target_parameters": 5}, "target_parameters"),
        ({"lora_alpha": 10**400}, "lora_alpha"),
        ({"lora_alpha": float("nan")}, "lora_alpha"),
        ({"lora_alpha": "x"}, "lora_alpha"),
        ({"peft_type": ["LORA"]}, "peft_type"),
    ],
)
def test_odd_settings(tmp_path: Path, config: dict[str, Any], word: str):
    source = adapter(tmp_path / "x.tar", pair(), **config)
    assert_refused(tmp_path / "home", source, word)


@pytest.mark.parametrize(
    ("changes", "weights", "word"),
    [
        ({"rank": 10**9}, pair(), "rank"),
        ({"rank": -1}, pair(), "rank"),
        ({"rank": True}, pair(), "manifest"),
        ({"rank": 2.0}, pair(), "manifest"),
        ({"base_model": "../../x"}, pair(), "../../x"),
        ({}, pair(fill=np.nan), "NaN"),
    ],
)
def test_a_forged_checkpoint_of_our_own(
    tmp_path: Path, changes: dict[str, Any], weights: Arrays, word: str
):
    switches = dict.fromkeys(("train_attn", "train_mlp", "train_unembed"), True)
    details = {"base_model": MODEL, "rank": 2, **switches, **changes}
    source = own(tmp_path / "x.tar", details, weights)
    assert_refused(tmp_path / "home", source, word)
