"""The engine's loop on a real ledger and a real tiny model: what goes wrong stays with its op."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from running_engine import (
    LORA,
    MODEL,
    PATIENCE_S,
    Engine,
    batch,
    load_tiny_model,
    sample,
    step,
)
from tinsmith.domain.addresses import CheckpointAddress, CheckpointKind
from tinsmith.domain.errors import StorageError
from tinsmith.domain.ops import SaveForSampler
from tinsmith.domain.outcomes import Failed, FailureCategory, Outcome, StepDone, Succeeded
from tinsmith.engine import sampler as sampler_module
from tinsmith.engine.base_model import BaseModel


@pytest.fixture(scope="module")
def base_model(tmp_path_factory: pytest.TempPathFactory) -> BaseModel:
    return load_tiny_model(tmp_path_factory.mktemp("model"))


@pytest.fixture
def engine(tmp_path: Path, base_model: BaseModel) -> Iterator[Engine]:
    running = Engine(tmp_path, base_model)
    yield running
    running.stop()


def norm(outcome: Outcome) -> float:
    assert isinstance(outcome, Succeeded), outcome
    assert isinstance(outcome.result, StepDone)
    return outcome.result.metrics["grad_norm:mean"]


def refuse(engine: Engine, seq_id: int, kind: str) -> None:
    failure = Failed(FailureCategory.USER, "refused at intake")
    engine.ledger.append_failed(engine.run_id, seq_id, kind, failure, owner="me", base_model=MODEL)


def test_a_step_that_intake_refused_ends_its_gradient_window(engine: Engine):
    engine.submit(1, batch())
    alone = norm(engine.submit(2, step(0.0)))
    engine.submit(3, batch())
    refuse(engine, 4, "optim_step")
    engine.submit(5, batch())
    assert norm(engine.submit(6, step(0.0))) == alone


def test_a_batch_that_intake_refused_fails_its_step_and_no_other(engine: Engine):
    engine.submit(1, batch())
    refuse(engine, 2, "forward_backward")
    failed = engine.submit(3, step())
    assert isinstance(failed, Failed)
    assert "seq_id 2" in failed.message
    engine.submit(4, batch())
    assert norm(engine.submit(5, step())) > 0


def test_outcomes_wait_for_a_full_disk_and_are_not_lost(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
):
    settle, refusals = engine.ledger.settle_many, []

    def refuse_twice(settlements):  # the disk is not ours to fill in a test
        if len(refusals) < 2:
            refusals.append(settlements)
            raise StorageError("no space left")
        return settle(settlements)

    monkeypatch.setattr("tinsmith.engine.loop.STORAGE_PAUSE_S", 0.01)
    monkeypatch.setattr(engine.ledger, "settle_many", refuse_twice)
    assert isinstance(engine.submit(1, batch()), Succeeded)
    assert len(refusals) == 2
    assert norm(engine.submit(2, step())) > 0


def test_a_failed_prefill_fails_its_samples_and_the_engine_goes_on(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
):
    sampler = engine.sampler(0, None)
    prefill = sampler_module.run_prefill

    def out_of_memory(*arguments):  # a device that we do not have here
        raise MemoryError("device")

    monkeypatch.setattr(sampler_module, "run_prefill", out_of_memory)
    failed = engine.submit(0, sample(), sampler)
    assert isinstance(failed, Failed)
    assert failed.category is FailureCategory.SERVER
    monkeypatch.setattr(sampler_module, "run_prefill", prefill)
    assert isinstance(engine.submit(1, sample(), sampler), Succeeded)


@pytest.mark.parametrize("manifest", [b'{"format": 1}', b"[]", b"\xff", b""])
def test_a_damaged_checkpoint_fails_its_samples_alone(engine: Engine, tmp_path: Path, manifest):
    address = CheckpointAddress(engine.run_id, CheckpointKind.SAMPLER, "a")
    assert isinstance(engine.submit(1, SaveForSampler(address)), Succeeded)
    next(tmp_path.rglob("manifest.json")).write_bytes(manifest)
    failed = engine.submit(0, sample(), engine.sampler(0, address))
    assert isinstance(failed, Failed)
    assert "corrupt" in failed.message
    assert isinstance(engine.submit(0, sample(), engine.sampler(1, None)), Succeeded)


def test_short_ops_of_several_runs_are_put_on_record_together(engine: Engine):
    runs = [engine.run_id]
    for number in range(1, 6):
        assert isinstance(engine.create(number, LORA), Succeeded)
        runs.append(f"{engine.session}:train:{number}")
    while engine.bell.listen(0.2) is not None:
        pass
    waiting = {engine.append(1, batch(), run_id) for run_id in runs}

    engine.bell.ring("ring")
    groups = []
    while waiting:
        message = engine.bell.listen(PATIENCE_S)
        assert message is not None
        if message["kind"] == "settled":
            groups.append(len(message["request_ids"]))
            waiting -= set(message["request_ids"])

    assert sum(groups) == len(runs) and max(groups) > 1
