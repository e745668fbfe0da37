from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tinsmith.checkpoints.store import CheckpointStore
from tinsmith.config import Config
from tinsmith.domain.addresses import CheckpointAddress
from tinsmith.domain.ops import SaveExternal, SaveForSampler, SaveState
from tinsmith.domain.outcomes import Outcome, RunCreated, Saved, Succeeded
from tinsmith.domain.records import Caller, Checkpoint, ServedModel, Session
from tinsmith.ledger.ledger import Ledger
from tinsmith.nn.losses import LOSSES
from tinsmith.service.service import Service

TINY = ServedModel("org/tiny", "unused", vocab_size=100, max_context=16)
OTHER = ServedModel("org/other", "unused", vocab_size=50, max_context=8)


@dataclass
class House:
    """A service on a real ledger and a real store, with a stand-in for the engine: nobody
    executes, the test settles."""

    home: Path
    config: Config
    ledger: Ledger
    store: CheckpointStore
    rung: list[str] = field(default_factory=list)

    anna = Caller("anna")
    boris = Caller("boris")

    def __post_init__(self) -> None:
        self.service = self.build()
        self.epoch = self.ledger.acquire_lease(TINY.name, "test")

    def build(self, *models: ServedModel, config: Config | None = None) -> Service:
        return Service.build(
            self.ledger,
            self.store,
            models or (TINY, OTHER),
            losses=list(LOSSES.values()),
            config=config or self.config,
            ring=self.rung.append,
        )

    def session(self, caller: Caller | None = None) -> Session:
        return self.service.sessions.create(caller or self.anna)

    def run(self, caller: Caller | None = None, **changes: Any) -> str:
        """A created run's id."""
        caller = caller or self.anna
        session_id = changes.pop("session_id", None) or self.session(caller).session_id
        number = changes.pop("number", 0)
        settings = {"base_model": TINY.name, "rank": 4, **changes}
        request_id = self.service.runs.create(caller, session_id, number, **settings)
        run_id = request_id.rpartition("#")[0]
        self.settle(request_id, Succeeded(RunCreated(run_id)))
        return run_id

    def settle(
        self, request_id: str, outcome: Outcome, checkpoint: Checkpoint | None = None
    ) -> None:
        self.ledger.settle(request_id, outcome, lease_epoch=self.epoch, checkpoint=checkpoint)

    def execute_save(self, request_id: str, **changes: Any) -> CheckpointAddress:
        """What the engine does for a save: bytes, then row and outcome."""
        record = next(r for r in self.ledger.pending(TINY.name) if r.request_id == request_id)
        op = record.op
        assert isinstance(op, (SaveState, SaveForSampler, SaveExternal))
        run = self.ledger.run(op.address.run_id)
        assert run is not None
        array = {"base_model.model.q.lora_A.weight": np.ones((4, 8), np.float32)}
        written = self.store.write(
            op.address,
            adapter=array,
            adapter_config={"r": 4},
            optimizer=array if isinstance(op, SaveState) else None,
        )
        sampler_id = op.sampler_id if isinstance(op, SaveForSampler) else None
        row = Checkpoint(
            address=op.address,
            owner=run.owner,
            base_model=run.base_model,
            lora=run.lora,
            created_at=datetime.now(UTC),
            size_bytes=written.size_bytes,
            digest=written.digest,
            is_listed=sampler_id is None,
        )
        self.settle(request_id, Succeeded(Saved(op.address, sampler_id)), replace(row, **changes))
        return op.address

    def saved(self, run_id: str, name: str = "a", seq_id: int = 1, **changes: Any):
        """The address of a training checkpoint of the run, made."""
        run = self.ledger.run(run_id)
        assert run is not None
        request_id = self.service.runs.save_state(Caller(run.owner), run_id, seq_id, name=name)
        return self.execute_save(request_id, **changes)

    def outcome(self, request_id: str) -> Outcome | None:
        status = self.ledger.op_status(request_id)
        assert status is not None
        return status.outcome


@pytest.fixture(params=["sqlite", "postgresql"])
def house(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[House]:
    home = tmp_path / "home"
    database = "" if request.param == "sqlite" else request.getfixturevalue("postgresql_url")
    config = Config(home=home, database=database)
    house = House(home, config, Ledger.open(config.ledger), CheckpointStore(home / "files"))
    yield house
    house.service.close()
    house.ledger.close()
