"""What a project may have in an engine's memory and on the disk."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from running_engine import LORA, Engine, batch, load_tiny_model, step
from tinsmith.config import Engine as EngineSettings
from tinsmith.config import Quotas
from tinsmith.domain.addresses import CheckpointAddress, CheckpointKind
from tinsmith.domain.ops import SaveForSampler, SaveState
from tinsmith.domain.outcomes import Failed, FailureCategory, Succeeded
from tinsmith.engine.base_model import BaseModel
from tinsmith.engine.frozen_adapters import FrozenAdapters
from tinsmith.engine.project_quotas import ProjectQuotas

SMALL_MICRO_BATCHES = 4
"""Tokens, so that an op of another run comes in the middle of one."""
Start = Callable[..., Engine]


@pytest.fixture(scope="module")
def base_model(tmp_path_factory: pytest.TempPathFactory) -> BaseModel:
    return load_tiny_model(tmp_path_factory.mktemp("model"))


@pytest.fixture
def start(tmp_path: Path, base_model: BaseModel) -> Iterator[Start]:
    running: list[Engine] = []

    def make(**quotas: int) -> Engine:
        home = tmp_path / f"home-{len(running)}"
        home.mkdir()
        settings = EngineSettings(micro_batch_tokens=SMALL_MICRO_BATCHES)
        running.append(Engine(home, base_model, settings, Quotas(**quotas)))
        return running[-1]

    yield make
    for engine in running:
        engine.stop()


def address(engine: Engine, name: str, kind: CheckpointKind = CheckpointKind.TRAINING):
    return CheckpointAddress(engine.run_id, kind, name)


def test_runs_of_a_project_that_may_have_one_resident_train_as_if_all_were(start: Start) -> None:
    def play(engine: Engine) -> list[str]:
        runs = [engine.run_id]
        for number in (1, 2):
            assert isinstance(engine.create(number, LORA), Succeeded)
            runs.append(f"{engine.session}:train:{number}")
        waiting: list[str] = []
        for seq_id in range(1, 7):
            for number, run_id in enumerate(runs):
                op = step() if seq_id % 2 == 0 else batch(seed=10 * seq_id + number)
                waiting.append(engine.append(seq_id, op, run_id))
        outcomes = [engine.wait(request_id) for request_id in waiting]
        assert all(isinstance(outcome, Succeeded) for outcome in outcomes), outcomes
        return [str(outcome) for outcome in outcomes]

    free, narrow = start(), start(resident_adapters=1)

    assert play(narrow) == play(free)
    assert list(narrow.home.glob("aside/*.safetensors"))
    assert not list(free.home.glob("aside/*.safetensors"))


def test_saves_that_waited_together_end_with_the_quota(start: Start) -> None:
    engine = start(stored_bytes=1)
    saves = [
        engine.append(number, SaveState(address(engine, f"s{number}")), engine.run_id)
        for number in (1, 2, 3)
    ]

    first, *others = [engine.wait(request_id) for request_id in saves]

    assert isinstance(first, Succeeded)
    for outcome in others:
        assert isinstance(outcome, Failed)
        assert outcome.category is FailureCategory.USER
        assert "stored_bytes 1" in outcome.message


def test_a_project_keeps_no_more_frozen_adapters_than_it_may(
    start: Start, base_model: BaseModel
) -> None:
    engine, samplers = start(), []
    for number in (1, 2):
        at = address(engine, f"s{number}", CheckpointKind.SAMPLER)
        for seq_id, op in enumerate((batch(number), step(), SaveForSampler(at)), 3 * number):
            assert isinstance(engine.submit(seq_id, op), Succeeded)
        samplers.append(engine.sampler(number, at))

    def is_kept_after_another(**quotas: int) -> bool:
        frozen = FrozenAdapters(
            base_model,
            engine.ledger,
            engine.store,
            32,
            ProjectQuotas(engine.ledger, Quotas(**quotas)),
        )
        first = frozen.of_sampler(samplers[0])
        assert frozen.of_sampler(samplers[0]) is first
        assert frozen.of_sampler(samplers[1]) is not first
        return frozen.of_sampler(samplers[0]) is first

    assert is_kept_after_another()
    assert is_kept_after_another(resident_adapters=2)
    assert not is_kept_after_another(resident_adapters=1)
