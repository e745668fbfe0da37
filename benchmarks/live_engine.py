"""The engine as the server runs it, a child process behind a ledger, without the HTTP front."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from pathlib import Path

from server import children_of
from side import peak_of
from tinsmith.base_models import resolve
from tinsmith.config import Config
from tinsmith.config import Engine as EngineSettings
from tinsmith.domain.ops import CreateRun, LoraConfig, Op
from tinsmith.domain.outcomes import Failed
from tinsmith.domain.records import Run
from tinsmith.engines import EngineProcess
from tinsmith.ledger.ledger import Ledger

OWNER = "benchmark"
PATIENCE_S = 180.0


class LiveEngine:
    """One engine process and the ledger that it reads, for the length of a `with` block."""

    def __init__(self, home: Path, directory: str, settings: EngineSettings) -> None:
        home.mkdir(parents=True, exist_ok=True)
        before = set(children_of("self"))
        self._ledger = Ledger.open(home / "ledger.db")
        self._model = resolve(f"benchmark/model={directory}")
        self._settled: set[str] = set()
        self._changed = threading.Condition()
        config = Config(home=home, engine=settings)
        self._engine = EngineProcess(
            self._model, config, on_settled=self._note, on_tokens=lambda told: None
        )
        self._engine.start()
        deadline = time.monotonic() + PATIENCE_S
        while not self._engine.is_ready:
            if self._engine.gave_up or time.monotonic() > deadline:
                raise SystemExit("the engine did not start")
            time.sleep(0.02)
        (self._pid,) = set(children_of("self")) - before
        self._session = self._ledger.create_session(OWNER).session_id
        self._next_seq: dict[str, int] = {}

    def create_run(self, rank: int, seed: int = 0) -> str:
        """A run with an adapter on all linear layers but the output layer."""
        lora = LoraConfig(rank=rank, seed=seed, train_unembed=False)
        run_id = f"{self._session}:train:{len(self._next_seq)}"
        now = datetime.now(UTC)
        run = Run(run_id, self._session, OWNER, self._model.name, lora, now, now)
        request_id = self._ledger.create_run(run, CreateRun(self._model.name, lora))
        self._next_seq[run_id] = 1
        self._engine.ring()
        self.wait([request_id])
        return run_id

    def submit(self, run_id: str, op: Op) -> str:
        seq_id = self._next_seq[run_id]
        self._next_seq[run_id] += 1
        request_id = self._ledger.append(
            run_id, seq_id, op, owner=OWNER, base_model=self._model.name
        )
        self._engine.ring()
        return request_id

    def wait(self, request_ids: Iterable[str]) -> None:
        """Until all are settled; ends the benchmark if one has failed."""
        wanted = set(request_ids)
        with self._changed:
            self._changed.wait_for(lambda: wanted <= self._settled)
        for outcome in self._ledger.outcomes(wanted).values():
            if isinstance(outcome, Failed):
                raise SystemExit(f"an op failed: {outcome.message}")

    def peak_bytes(self) -> int:
        """Most resident memory that the engine's process has had."""
        return peak_of(self._pid)

    def _note(self, request_ids: Sequence[str]) -> None:
        with self._changed:
            self._settled.update(request_ids)
            self._changed.notify_all()

    def __enter__(self) -> LiveEngine:
        return self

    def __exit__(self, *_: object) -> None:
        self._engine.ask_to_stop()
        self._engine.join()
        self._ledger.close()
