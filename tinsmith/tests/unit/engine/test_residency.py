from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from tinsmith.config import Engine as EngineSettings
from tinsmith.domain.errors import StorageError
from tinsmith.domain.ops import AdamParams, ForwardBackward, LoraConfig, OptimStep
from tinsmith.engine.adapter import AdapterState
from tinsmith.engine.aside_files import DamagedFileError
from tinsmith.engine.base_model import BaseModel
from tinsmith.engine.residency import NoRoomYetError, Residency
from tinsmith.engine.trainer import Trainer
from tinsmith.engine.training_state import TrainingState

LORA = LoraConfig(rank=4, seed=0)
NUM_RUNS = 20
Batch = Callable[..., ForwardBackward]
New = Callable[[int], TrainingState]


@pytest.fixture
def new(tiny_qwen3: BaseModel, trained_adapter: Callable[..., AdapterState]) -> New:
    return lambda seed: TrainingState(trained_adapter(tiny_qwen3, replace(LORA, seed=seed)))


@pytest.fixture
def one_run(new: New) -> int:
    """Bytes of a run with its gradient."""
    return 16 * new(0).layout.size


@pytest.fixture
def residency(tiny_qwen3: BaseModel, tmp_path: Path, one_run: int) -> Residency:
    """Room for three, no host memory."""
    return Residency(tiny_qwen3, tmp_path / "aside", resident_bytes=3 * one_run, host_bytes=0)


def fill(residency: Residency, new: New, num_runs: int) -> None:
    for number in range(num_runs):
        add(residency, f"run-{number}", new(number))


def add(residency: Residency, run_id: str, state: TrainingState) -> None:
    residency.add(run_id, state.layout.size, lambda: state)


def everything(state: TrainingState) -> tuple[object, ...]:
    vectors = {name: vector.numpy().tobytes() for name, vector in state.vectors.items()}
    return vectors, state.notes, state.layout.lora


@contextmanager
def full_disk() -> Iterator[None]:
    """The system refuses to make files longer than nothing, as a full disk does."""
    resource = pytest.importorskip("resource")
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.mark.parametrize("num_in_host", [0, 2, NUM_RUNS])
def test_twenty_runs_with_room_for_three_train_as_with_room_for_all(
    tiny_qwen3: BaseModel, new: New, batch: Batch, one_run: int, tmp_path: Path, num_in_host: int
) -> None:
    def play(room: int, host: int, folder: str) -> list[object]:
        residency = Residency(tiny_qwen3, tmp_path / folder, resident_bytes=room, host_bytes=host)
        seen: list[object] = []
        fill(residency, new, NUM_RUNS)
        order = torch.Generator().manual_seed(0)
        for turn in range(3):
            for number in torch.randperm(NUM_RUNS, generator=order).tolist():
                trainer = Trainer(tiny_qwen3, residency.take(f"run-{number}"))
                done = trainer.forward_backward(batch((7, 4), seed=100 * turn + number))
                seen += [done.metrics, [logprobs.tobytes() for logprobs in done.logprobs]]
                assert residency.resident_bytes <= room
                assert residency.host_bytes <= host
            for number in torch.randperm(NUM_RUNS, generator=order).tolist():
                if (number + turn) % 3 == 0:
                    continue  # its window stays open
                trainer = Trainer(tiny_qwen3, residency.take(f"run-{number}"))
                seen.append(trainer.optim_step(OptimStep(AdamParams(0.01))).metrics)
                assert residency.resident_bytes <= room
        return [*seen, *(everything(residency.take(f"run-{n}")) for n in range(NUM_RUNS))]

    wanted = play(NUM_RUNS * one_run, 0, "all")
    assert not (tmp_path / "all").exists()
    assert play(3 * one_run, num_in_host * one_run, "three") == wanted
    assert (tmp_path / "three").exists() == (num_in_host < NUM_RUNS)


@pytest.mark.parametrize("host_bytes", [0, 10**9])
def test_a_run_comes_back_as_it_left_to_the_last_bit(
    tiny_qwen3: BaseModel, new: New, tmp_path: Path, host_bytes: int
) -> None:
    residency = Residency(tiny_qwen3, tmp_path / "aside", resident_bytes=1, host_bytes=host_bytes)
    odd, plain = new(0), new(1)
    odd.gradient_P = torch.full((odd.layout.size,), -0.0)
    odd.gradient_P[1] = 1e-45  # the least there is
    odd.optimizer.num_steps, odd.window_failure, odd.window_start = 7, "half a batch", 5
    before = everything(odd), everything(plain)
    add(residency, "odd", odd)
    add(residency, "plain", plain)

    back = residency.take("odd")
    assert everything(back) == before[0] and back is not odd
    again = residency.take("plain")
    assert everything(again) == before[1] and again.gradient_P is None
    pair = next(pair for pair in again.adapter.pairs if pair is not None)
    assert pair[0].requires_grad and pair[0].data_ptr() == again.adapter.weights_P.data_ptr()


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA device")
@pytest.mark.parametrize("host_bytes", [0, 10**9])
def test_a_run_comes_back_to_its_gpu_bit_for_bit(
    model_dir: Callable[[str], Path], tmp_path: Path, host_bytes: int
) -> None:
    base = BaseModel.load(model_dir("qwen3"), "cuda", torch.float32)
    residency = Residency(base, tmp_path / "aside", resident_bytes=1, host_bytes=host_bytes)
    first, second = (
        TrainingState(AdapterState.create(base, replace(LORA, seed=seed))) for seed in (0, 1)
    )
    first.gradient_P = torch.full_like(first.adapter.weights_P, -0.0)
    before = {name: vector.cpu().numpy().tobytes() for name, vector in first.vectors.items()}
    add(residency, "first", first)
    add(residency, "second", second)
    back = residency.take("first").vectors
    assert {name: vector.cpu().numpy().tobytes() for name, vector in back.items()} == before
    assert all(vector.is_cuda for vector in back.values())
    assert residency.host_bytes <= host_bytes


def test_the_least_recently_used_run_leaves(residency: Residency, new: New, tmp_path: Path) -> None:
    fill(residency, new, 3)
    residency.take("run-0")
    add(residency, "run-3", new(3))
    (file,) = (tmp_path / "aside").iterdir()
    assert file.name.startswith("run-1-")


def test_a_run_in_the_middle_of_an_op_stays(residency: Residency, new: New) -> None:
    fill(residency, new, 4)  # run-0 has left
    held = {run_id: residency.take(run_id) for run_id in ("run-1", "run-2", "run-3")}
    for run_id in held:
        residency.hold(run_id)
    for attempt in (lambda: residency.take("run-0"), lambda: add(residency, "run-4", new(4))):
        with pytest.raises(NoRoomYetError):
            attempt()
    assert "run-4" not in residency
    residency.let_go("run-2")
    residency.take("run-0")
    assert all(residency.take(run_id) is held[run_id] for run_id in ("run-1", "run-3"))


def test_a_run_larger_than_the_budget_gets_the_device_to_itself(
    tiny_qwen3: BaseModel, new: New, tmp_path: Path
) -> None:
    residency = Residency(tiny_qwen3, tmp_path / "aside", resident_bytes=1, host_bytes=0)
    fill(residency, new, 2)
    state = residency.take("run-0")
    assert residency.resident_bytes == sum(vector.nbytes for vector in state.vectors.values())


@pytest.mark.parametrize("damage", ["gone", "short", "flipped", "another's"])
def test_a_damaged_file_costs_its_run_and_no_other(
    residency: Residency, new: New, tmp_path: Path, damage: str
) -> None:
    fill(residency, new, 5)
    file, other = sorted((tmp_path / "aside").iterdir())
    content = bytearray(file.read_bytes())
    if damage == "gone":
        file.unlink()
    elif damage == "short":
        file.write_bytes(content[:-1])
    elif damage == "flipped":
        content[-5] ^= 1
        file.write_bytes(content)
    else:
        file.write_bytes(other.read_bytes())

    with pytest.raises(DamagedFileError, match="gone" if damage == "gone" else "damaged"):
        residency.take("run-0")
    assert "run-0" not in residency
    for number in (1, 2, 3, 4):
        assert everything(residency.take(f"run-{number}")) == everything(new(number))


@pytest.mark.parametrize("num_in_host", [0, 1])
def test_a_full_disk_fails_who_needs_room_and_loses_nothing(
    tiny_qwen3: BaseModel,
    new: New,
    one_run: int,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    num_in_host: int,
) -> None:
    residency = Residency(
        tiny_qwen3,
        tmp_path / "aside",
        resident_bytes=3 * one_run,
        host_bytes=num_in_host * one_run,
    )
    fill(residency, new, 4 + num_in_host)
    with full_disk(), caplog.at_level(logging.WARNING, "tinsmith"):
        for attempt in (lambda: residency.take("run-0"), lambda: add(residency, "new", new(9))):
            with pytest.raises(StorageError, match=r"no room for run .*repeat; every run is as it"):
                attempt()
        for number in (2 + num_in_host, 3 + num_in_host):
            residency.take(f"run-{number}")  # those with a place go on
    assert "cannot_put_aside" in caplog.text
    assert "new" not in residency
    assert not list((tmp_path / "aside").glob("*.new"))
    for number in range(4 + num_in_host):
        assert everything(residency.take(f"run-{number}")) == everything(new(number))


def test_a_released_run_leaves_nothing_behind(
    residency: Residency, new: New, tmp_path: Path
) -> None:
    fill(residency, new, 4)
    for number in range(4):
        residency.drop(f"run-{number}")
        assert f"run-{number}" not in residency
    assert residency.resident_bytes == 0
    assert not list((tmp_path / "aside").iterdir())
    with pytest.raises(KeyError):
        residency.take("run-0")


def test_a_failing_replacement_leaves_the_run_as_it_was(residency: Residency, new: New) -> None:
    fill(residency, new, 4)

    def fail() -> TrainingState:
        raise ValueError("a bad checkpoint")

    for run_id in ("run-0", "run-3"):  # one in its file, one on the device
        with pytest.raises(ValueError, match="bad checkpoint"):
            residency.add(run_id, new(0).layout.size, fail)
        assert everything(residency.take(run_id)) == everything(new(int(run_id[-1])))


def test_a_replacement_does_not_leave_the_old_file(
    residency: Residency, new: New, tmp_path: Path
) -> None:
    fill(residency, new, 4)
    add(residency, "run-0", new(7))
    assert everything(residency.take("run-0")) == everything(new(7))
    assert [file.name[:5] for file in (tmp_path / "aside").iterdir()] == ["run-1"]


def test_room_is_as_set_or_else_a_share_of_what_is_free(
    tiny_qwen3: BaseModel, tmp_path: Path, new: New
) -> None:
    size = new(0).layout.size
    planned = Residency.planned(tiny_qwen3, tmp_path / "a", EngineSettings())
    fill(planned, new, 3)
    assert not (tmp_path / "a").exists()

    def too_much() -> TrainingState:
        raise MemoryError

    with pytest.raises(MemoryError):
        planned.add("huge", 10**15, too_much)  # the others make room for it all the same
    assert len(list((tmp_path / "a").iterdir())) == 3
    as_set = Residency.planned(tiny_qwen3, tmp_path / "b", EngineSettings(resident_bytes=16 * size))
    fill(as_set, new, 2)
    assert len(list((tmp_path / "b").iterdir())) == 1
