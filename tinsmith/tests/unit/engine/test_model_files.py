from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from tinsmith.domain.errors import InvalidInputError
from tinsmith.domain.ops import AdamParams, ForwardBackward, LoraConfig, OptimStep
from tinsmith.engine.adapter import AdapterState
from tinsmith.engine.base_model import BaseModel
from tinsmith.engine.model_files import count_parameters, load_pretrained
from tinsmith.engine.trainer import Trainer
from tinsmith.engine.training_state import TrainingState
from transformers import AutoModelForCausalLM, PreTrainedModel

CPU = torch.device("cpu")
LINUX = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc/self/smaps")


def mappings(folder: Path) -> Iterator[tuple[int, int, dict[str, int]]]:
    """Of this process onto a model's weights: begin, end, and sizes in KiB by the kernel's name."""
    begin, end, sizes, is_ours = 0, 0, {}, False
    for line in [*Path("/proc/self/smaps").read_text().splitlines(), "0-0 end"]:
        words = line.split()
        if not words[0].endswith(":"):
            if is_ours:
                yield begin, end, sizes
            begin, end = (int(address, 16) for address in words[0].split("-"))
            is_ours, sizes = str(folder) in line and line.endswith(".safetensors"), {}
        elif words[-1] == "kB":
            sizes[words[0].removesuffix(":")] = int(words[1])


def are_mapped(model: PreTrainedModel, folder: Path) -> list[bool]:
    ranges = [(begin, end) for begin, end, _ in mappings(folder)]
    return [
        any(begin <= parameter.data_ptr() < end for begin, end in ranges)
        for parameter in model.parameters()
    ]


def saved(
    model_dir: Callable[[str], Path], name: str, folder: Path, dtype: torch.dtype, **options: object
) -> Path:
    model = AutoModelForCausalLM.from_pretrained(model_dir(name), dtype=dtype)
    model.save_pretrained(folder, **options)
    return folder


@LINUX
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("shard", ["1GB", "20KB"])
@pytest.mark.parametrize("name", ["qwen3", "qwen2_5"])
def test_weights_of_the_compute_dtype_stay_in_the_files(
    name: str,
    shard: str,
    dtype: torch.dtype,
    model_dir: Callable[[str], Path],
    tmp_path: Path,
) -> None:
    folder = saved(model_dir, name, tmp_path / "model", dtype, max_shard_size=shard)
    model = load_pretrained(folder, CPU, dtype, "eager")
    assert all(are_mapped(model, folder))


@LINUX
def test_training_writes_to_no_page_of_the_files(
    model_dir: Callable[[str], Path], batch: Callable[..., ForwardBackward], tmp_path: Path
) -> None:
    folder = shutil.copytree(model_dir("qwen3"), tmp_path / "model")
    base = BaseModel.load(folder, dtype=torch.float32)
    trainer = Trainer(base, TrainingState(AdapterState.create(base, LoraConfig(4, 0))))
    trainer.forward_backward(batch())
    trainer.optim_step(OptimStep(AdamParams(learning_rate=1e-3)))
    found = list(mappings(folder))
    assert found
    # A page that was written to is a copy, which the kernel counts as anonymous.
    assert [sizes["Anonymous"] for _, _, sizes in found] == [0] * len(found)


@LINUX
def test_weights_of_another_dtype_are_converted_and_let_the_files_go(
    model_dir: Callable[[str], Path], tmp_path: Path
) -> None:
    folder = saved(model_dir, "qwen3", tmp_path / "model", torch.bfloat16)
    model = load_pretrained(folder, CPU, torch.float32, "eager")
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}
    assert not any(are_mapped(model, folder))
    assert not list(mappings(folder))
    stored = load_file(folder / "model.safetensors")
    for name, parameter in model.named_parameters():
        assert torch.equal(parameter, stored[name].float())


@pytest.mark.parametrize("padding", range(1, 5))
def test_weights_at_any_address_multiply_alike(
    padding: int, model_dir: Callable[[str], Path], tmp_path: Path
) -> None:
    """The format promises no alignment: the header's length decides where the numbers begin."""
    folder = shutil.copytree(model_dir("qwen3"), tmp_path / "model")
    path = folder / "model.safetensors"
    data = path.read_bytes()
    length = int.from_bytes(data[:8], "little")
    header = data[8 : 8 + length] + b" " * padding
    path.write_bytes(len(header).to_bytes(8, "little") + header + data[8 + length :])
    token_T = torch.arange(20)[None]
    with torch.no_grad():
        logits = load_pretrained(folder, CPU, torch.float32, "eager")(token_T).logits
        wanted = load_pretrained(model_dir("qwen3"), CPU, torch.float32, "eager")(token_T).logits
    torch.testing.assert_close(logits, wanted, rtol=1e-6, atol=1e-6)


def test_parameters_are_counted_without_loading_them(
    model_dir: Callable[[str], Path], tmp_path: Path
) -> None:
    for name in ("qwen3", "qwen2_5"):
        model = AutoModelForCausalLM.from_pretrained(model_dir(name))
        wanted = sum(parameter.numel() for parameter in model.parameters())
        model.save_pretrained(tmp_path / name, max_shard_size="20KB")
        assert count_parameters(model_dir(name)) == wanted
        assert count_parameters(tmp_path / name) == wanted


@pytest.mark.parametrize("what", ["nothing", "torn_file", "torn_index", "missing_shard"])
def test_a_folder_whose_headers_cannot_be_read_is_refused(
    what: str, model_dir: Callable[[str], Path], tmp_path: Path
) -> None:
    folder = tmp_path / "model"
    if what == "torn_file":
        shutil.copytree(model_dir("qwen3"), folder)
        (folder / "model.safetensors").write_bytes(b"\x10\0\0\0\0\0\0\0{")
    elif what != "nothing":
        folder.mkdir()
        save_file({"a": torch.zeros(3)}, folder / "model-1.safetensors")
        index = {"weight_map": {"a": "model-1.safetensors", "b": "model-2.safetensors"}}
        text = json.dumps(index if what == "missing_shard" else {"weights": {}})
        (folder / "model.safetensors.index.json").write_text(text)
    with pytest.raises(InvalidInputError, match="cannot read safetensors weights"):
        count_parameters(folder)
