"""Many runs of one base model: none notices the others, and memory need not hold them all."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from running_engine import Engine, batch, load_tiny_model, step
from tinsmith.config import Engine as EngineSettings
from tinsmith.domain.addresses import CheckpointAddress, CheckpointKind
from tinsmith.domain.ops import ForwardBackward, LoraConfig, Op, SaveState
from tinsmith.domain.outcomes import Failed, ForwardBackwardDone, StepDone, Succeeded
from tinsmith.engine.adapter import AdapterLayout
from tinsmith.engine.base_model import BaseModel
from tinsmith.ledger.codec import encode

TENANTS = [
    LoraConfig(rank=1, seed=0),
    LoraConfig(rank=2, seed=1, train_unembed=False),
    LoraConfig(rank=3, seed=2, train_mlp=False, train_unembed=False),
    LoraConfig(rank=4, seed=3, train_attn=False),
    LoraConfig(rank=5, seed=4),
    LoraConfig(rank=8, seed=5, train_unembed=False),
    LoraConfig(rank=8, seed=6),
    LoraConfig(rank=16, seed=7),
]
SMALL_MICRO_BATCHES = 20
"""Tokens; two of a batch's sequences, so that ops of several runs are under way at once."""
Start = Callable[..., Engine]


@pytest.fixture(scope="module")
def base_model(tmp_path_factory: pytest.TempPathFactory) -> BaseModel:
    return load_tiny_model(tmp_path_factory.mktemp("model"))


@pytest.fixture
def start(tmp_path: Path, base_model: BaseModel) -> Iterator[Start]:
    """(resident_bytes) -> an engine in a home of its own."""
    running: list[Engine] = []

    def make(resident_bytes: int = 0) -> Engine:
        home = tmp_path / f"home-{len(running)}"
        home.mkdir()
        settings = EngineSettings(
            micro_batch_tokens=SMALL_MICRO_BATCHES, resident_bytes=resident_bytes
        )
        running.append(Engine(home, base_model, settings))
        return running[-1]

    yield make
    for engine in running:
        engine.stop()


def wide_batch(seed: int) -> ForwardBackward:
    return ForwardBackward(tuple(batch(seed * 100 + i).data[0] for i in range(5)), "cross_entropy")


def script(tenant: int, run_id: str) -> list[Op]:
    ops: list[Op] = []
    for seed in range(tenant * 10, tenant * 10 + 3):
        ops += [wide_batch(seed), batch(seed), step(0.01 * (tenant + 1))]
    return [*ops, SaveState(CheckpointAddress(run_id, CheckpointKind.TRAINING, "end"))]


def trained(engine: Engine, tenants: list[int]) -> dict[int, list[bytes]]:
    """Let tenants train side by side: every number and every weight that came of it, by tenant."""
    scripts = {}
    for tenant in tenants:
        assert isinstance(engine.create(tenant + 1, TENANTS[tenant]), Succeeded)
        run_id = f"{engine.session}:train:{tenant + 1}"
        ops = enumerate(script(tenant, run_id), start=1)
        scripts[tenant] = [engine.append(seq_id, op, run_id) for seq_id, op in ops]
    return {
        tenant: [
            *(numbers for request in requests for numbers in read(engine, request)),
            *saved(engine, f"{engine.session}:train:{tenant + 1}"),
        ]
        for tenant, requests in scripts.items()
    }


def read(engine: Engine, request_id: str) -> list[bytes]:
    outcome = engine.wait(request_id)
    assert isinstance(outcome, Succeeded), outcome
    match outcome.result:
        case ForwardBackwardDone(logprobs=logprobs, metrics=metrics):
            return [*(array.tobytes() for array in logprobs), repr(metrics).encode()]
        case StepDone(metrics=metrics):
            return [repr(metrics).encode()]
    return []


def saved(engine: Engine, run_id: str) -> list[bytes]:
    address = CheckpointAddress(run_id, CheckpointKind.TRAINING, "end")
    arrays = {**engine.store.read_adapter(address)[0], **engine.store.read_optimizer(address)}
    assert any(np.any(array) for name, array in arrays.items() if "lora_B" in name)
    return [arrays[name].tobytes() for name in sorted(arrays)]


def bytes_of(base_model: BaseModel, lora: LoraConfig) -> int:
    return 16 * AdapterLayout(base_model, lora).size


def test_a_tenants_training_is_the_same_alone_and_beside_seven_others(
    start: Start, base_model: BaseModel
):
    numbers = list(range(len(TENANTS)))
    together = trained(start(), numbers)
    room_for_two = bytes_of(base_model, TENANTS[-1]) + bytes_of(base_model, TENANTS[-2])
    assert trained(start(room_for_two), numbers) == together
    for tenant in numbers:
        assert trained(start(), [tenant]) == {tenant: together[tenant]}


def test_a_run_whose_file_is_gone_is_made_again_from_its_log(start: Start, tmp_path: Path):
    engine = start(resident_bytes=1)
    first, second = (f"{engine.session}:train:{number}" for number in (1, 2))
    for number in (1, 2):
        assert isinstance(engine.create(number, TENANTS[0]), Succeeded)
    before = [encode(engine.submit(1, batch(), run)) for run in (first, second)]
    (file,) = (tmp_path / "home-0/aside").glob("*train-1-*")
    file.unlink()

    after = [encode(engine.submit(2, step(), run)) for run in (first, second)]

    assert before[0] == before[1] and after[0] == after[1]
    assert isinstance(engine.submit(1, batch()), Succeeded)
    made_again = engine.ledger.run(first)
    assert made_again is not None and made_again.inexact is None


def test_a_disk_that_refuses_costs_the_new_run_and_nothing_else(start: Start, tmp_path: Path):
    engine = start(resident_bytes=1)
    assert isinstance(engine.submit(1, batch()), Succeeded)
    obstacle = tmp_path / "home-0/aside"
    obstacle.write_text("a file where the folder should be")

    failed = engine.create(1, TENANTS[0])
    assert isinstance(failed, Failed)
    assert "no room for run" in failed.message and "Free space" in failed.message
    assert isinstance(engine.submit(2, step()), Succeeded)
    obstacle.unlink()
    assert isinstance(engine.create(2, TENANTS[0]), Succeeded)
    assert isinstance(engine.submit(3, batch()), Succeeded)
