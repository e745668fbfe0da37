"""The engine's loop on a real ledger and a real tiny model: what goes wrong stays with its op."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pytest
import torch
from tinsmith.checkpoints.store import CheckpointStore
from tinsmith.config import Engine as EngineSettings
from tinsmith.domain.addresses import CheckpointAddress, CheckpointKind
from tinsmith.domain.datum import Datum
from tinsmith.domain.errors import StorageError
from tinsmith.domain.ops import (
    AdamParams,
    CreateRun,
    ForwardBackward,
    LoraConfig,
    Op,
    OptimStep,
    Sample,
    SamplingParams,
    SaveForSampler,
)
from tinsmith.domain.outcomes import Failed, FailureCategory, Outcome, StepDone, Succeeded
from tinsmith.domain.records import Run, Sampler, ServedModel
from tinsmith.engine import sampler as sampler_module
from tinsmith.engine.base_model import BaseModel
from tinsmith.engine.loop import EngineLoop
from tinsmith.engine.residency import Residency
from tinsmith.ledger.bell import Bell, BellListener
from tinsmith.ledger.ledger import Ledger
from transformers import Qwen3Config, Qwen3ForCausalLM

MODEL = "tests/tiny"
LORA = LoraConfig(rank=4, seed=1)
PATIENCE_S = 30.0


@pytest.fixture(scope="module")
def base_model(tmp_path_factory: pytest.TempPathFactory) -> BaseModel:
    torch.manual_seed(0)
    config = Qwen3Config(
        vocab_size=64,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=8,
        max_position_embeddings=64,
        initializer_range=0.3,
        eos_token_id=1,
        bos_token_id=None,
        pad_token_id=0,
    )
    directory = tmp_path_factory.mktemp("model")
    Qwen3ForCausalLM(config).save_pretrained(directory)
    return BaseModel.load(directory)


class Engine:
    """A loop in a thread, and the front's view of it."""

    def __init__(self, home: Path, base_model: BaseModel) -> None:
        self.ledger = Ledger.open(home / "ledger.db")
        self.store = CheckpointStore(home / "checkpoints")
        listener = BellListener()
        accepted: list[Bell] = []
        accepting = threading.Thread(target=lambda: accepted.append(listener.accept()))
        accepting.start()
        bell = Bell.connect(listener.port, listener.key)
        accepting.join()
        listener.close()
        self.bell = accepted[0]
        loop = EngineLoop(
            served=ServedModel(MODEL, "", vocab_size=64, max_context=64),
            base_model=base_model,
            ledger=self.ledger,
            store=self.store,
            residency=Residency.planned(base_model.device, home / "aside", EngineSettings()),
            bell=bell,
            settings=EngineSettings(),
            lease_epoch=self.ledger.acquire_lease(MODEL, "test"),
            decode_text=None,
        )
        self.thread = threading.Thread(target=loop.run)
        self.thread.start()
        self.session = self.ledger.create_session("me").session_id
        self.run_id = f"{self.session}:train:0"
        now = datetime.now(UTC)
        run = Run(self.run_id, self.session, "me", MODEL, LORA, now, now)
        self.expect(self.ledger.create_run(run, CreateRun(MODEL, LORA)), Succeeded)

    def submit(self, seq_id: int, op: Op, scope: str | None = None) -> Outcome:
        scope = scope or self.run_id
        return self.wait(self.ledger.append(scope, seq_id, op, owner="me", base_model=MODEL))

    def wait(self, request_id: str) -> Outcome:
        self.bell.ring("ring")
        deadline = time.monotonic() + PATIENCE_S
        while time.monotonic() < deadline:
            if outcome := self.ledger.outcomes([request_id]).get(request_id):
                return outcome
            time.sleep(0.01)
        raise AssertionError(f"{request_id} was never settled")

    def expect(self, request_id: str, kind: type[Outcome]) -> None:
        assert isinstance(self.wait(request_id), kind)

    def sampler(self, number: int, checkpoint: CheckpointAddress | None) -> str:
        sampler_id = f"{self.session}:sample:{number}"
        self.ledger.create_sampler(Sampler(sampler_id, self.session, "me", MODEL, checkpoint))
        return sampler_id

    def stop(self) -> None:
        self.bell.ring("stop")
        self.thread.join(PATIENCE_S)
        self.bell.close()
        self.ledger.close()
        assert not self.thread.is_alive()


@pytest.fixture
def engine(tmp_path: Path, base_model: BaseModel) -> Iterator[Engine]:
    running = Engine(tmp_path, base_model)
    yield running
    running.stop()


def batch(seed: int = 0) -> ForwardBackward:
    tokens = np.random.default_rng(seed).integers(2, 64, 9)
    inputs = {"target_tokens": tokens[1:], "weights": np.ones(8, np.float32)}
    return ForwardBackward((Datum(tokens[:-1].astype(np.int32), inputs),), "cross_entropy")


def step(learning_rate: float = 1e-3) -> OptimStep:
    return OptimStep(AdamParams(learning_rate=learning_rate))


def sample() -> Sample:
    prompt = np.array([5, 6, 7], np.int32)
    return Sample(prompt, SamplingParams(max_tokens=4, temperature=0.0, stop_at_eos=False))


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
