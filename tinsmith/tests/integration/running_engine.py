"""An engine's loop in a thread, on a real ledger and a real tiny model, and ops for it."""

from __future__ import annotations

import contextlib
import threading
import time
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import torch
from tinsmith.checkpoints.snapshots import SnapshotStore
from tinsmith.checkpoints.store import CheckpointStore
from tinsmith.config import Engine as EngineSettings
from tinsmith.config import Quotas
from tinsmith.config import Recovery as RecoverySettings
from tinsmith.domain.addresses import CheckpointAddress
from tinsmith.domain.datum import Datum
from tinsmith.domain.ops import (
    AdamParams,
    CreateRun,
    ForwardBackward,
    LoraConfig,
    Op,
    OptimStep,
    Sample,
    SamplingParams,
)
from tinsmith.domain.outcomes import Outcome, Succeeded
from tinsmith.domain.records import Run, Sampler, ServedModel
from tinsmith.engine.base_model import BaseModel
from tinsmith.engine.loop import EngineLoop, Threads
from tinsmith.engine.project_quotas import ProjectQuotas
from tinsmith.engine.residency import Residency
from tinsmith.ledger.bell import Bell, BellListener
from tinsmith.ledger.ledger import Ledger
from transformers import Qwen3Config, Qwen3ForCausalLM

MODEL = "tests/tiny"
LORA = LoraConfig(rank=4, seed=1)
PATIENCE_S = 30.0


def load_tiny_model(directory: Path) -> BaseModel:
    """A random Qwen3 of two layers, saved and loaded."""
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
    Qwen3ForCausalLM(config).save_pretrained(directory)
    return BaseModel.load(directory)


class Engine:
    """A loop in a thread, and the front's view of it."""

    def __init__(
        self,
        home: Path,
        base_model: BaseModel,
        settings: EngineSettings | None = None,
        quotas: Quotas | None = None,
        recovery: RecoverySettings | None = None,
        session: str | None = None,
    ) -> None:
        """With a `session` of an earlier engine, its runs go on."""
        settings = settings or EngineSettings()
        self.home = home
        self.base_model = base_model
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
        self.home = home
        loop = EngineLoop(
            served=ServedModel(MODEL, "", vocab_size=64, max_context=64),
            base_model=base_model,
            ledger=self.ledger,
            store=self.store,
            residency=Residency.planned(
                base_model,
                home / "aside",
                settings,
                ProjectQuotas(self.ledger, quotas or Quotas()),
            ),
            threads=Threads(training=1, sampling=1),
            bell=bell,
            settings=settings,
            snapshots=SnapshotStore(home / "snapshots"),
            recovery=recovery or RecoverySettings(),
            lease_epoch=self.ledger.acquire_lease(MODEL, "test"),
            decode_text=None,
        )
        self.thread = threading.Thread(target=self._run, args=[loop])
        self.thread.start()
        self.session = session or self.ledger.create_session("me").session_id
        self.run_id = f"{self.session}:train:0"
        if session is None:
            assert isinstance(self.create(0, LORA), Succeeded)

    def _run(self, loop: EngineLoop) -> None:
        with contextlib.suppress(EOFError):  # `crash`
            loop.run()

    def create(self, number: int, lora: LoraConfig) -> Outcome:
        """Make run `number` of the session."""
        now = datetime.now(UTC)
        run_id = f"{self.session}:train:{number}"
        run = Run(run_id, self.session, "me", MODEL, lora, now, now)
        return self.wait(self.ledger.create_run(run, CreateRun(MODEL, lora)))

    def append(self, seq_id: int, op: Op, scope: str) -> str:
        """Log an op without waking the engine; its request_id."""
        return self.ledger.append(scope, seq_id, op, owner="me", base_model=MODEL)

    def submit(self, seq_id: int, op: Op, scope: str | None = None) -> Outcome:
        return self.wait(self.append(seq_id, op, scope or self.run_id))

    def wait(self, request_id: str) -> Outcome:
        self.bell.ring("ring")
        deadline = time.monotonic() + PATIENCE_S
        while time.monotonic() < deadline:
            if outcome := self.ledger.outcomes([request_id]).get(request_id):
                return outcome
            time.sleep(0.01)
        raise AssertionError(f"{request_id} was never settled")

    def sampler(self, number: int, checkpoint: CheckpointAddress | None) -> str:
        sampler_id = f"{self.session}:sample:{number}"
        self.ledger.create_sampler(Sampler(sampler_id, self.session, "me", MODEL, checkpoint))
        return sampler_id

    def crash(self) -> None:
        """End in the middle of whatever it is, as if the front had died: nothing is saved."""
        self.bell.close()
        self.thread.join(PATIENCE_S)
        self.ledger.close()
        assert not self.thread.is_alive()

    def stop(self) -> None:
        self.bell.ring("stop")
        self.thread.join(PATIENCE_S)
        self.bell.close()
        self.ledger.close()
        assert not self.thread.is_alive()


def batch(seed: int = 0) -> ForwardBackward:
    tokens = np.random.default_rng(seed).integers(2, 64, 9)
    inputs = {"target_tokens": tokens[1:], "weights": np.ones(8, np.float32)}
    return ForwardBackward((Datum(tokens[:-1].astype(np.int32), inputs),), "cross_entropy")


def step(learning_rate: float = 1e-3) -> OptimStep:
    return OptimStep(AdamParams(learning_rate=learning_rate))


def sample() -> Sample:
    prompt = np.array([5, 6, 7], np.int32)
    return Sample(prompt, SamplingParams(max_tokens=4, temperature=0.0, stop_at_eos=False))
