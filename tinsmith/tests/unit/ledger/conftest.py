from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest
from tinsmith.domain.addresses import run_id_of
from tinsmith.domain.ops import CreateRun, LoraConfig
from tinsmith.domain.records import Run
from tinsmith.ledger.ledger import Ledger

MODEL = "org/tiny"


@pytest.fixture
def ledger_file(tmp_path: Path) -> Path:
    return tmp_path / "home" / "ledger.sqlite"


@pytest.fixture(params=["sqlite", "postgresql"])
def ledger_place(request: pytest.FixtureRequest) -> str:
    """A path or URL where no ledger is yet."""
    fixture = {"sqlite": "ledger_file", "postgresql": "postgresql_url"}[request.param]
    return str(request.getfixturevalue(fixture))


@pytest.fixture
def ledger(ledger_place: str) -> Iterator[Ledger]:
    ledger = Ledger.open(ledger_place)
    yield ledger
    ledger.close()


@pytest.fixture
def new_run(ledger: Ledger) -> Callable[..., Run]:
    """Makes a session with one run in it; the creation stays unsettled."""

    def make(owner: str = "anna", session_id: str | None = None, number: int = 0) -> Run:
        if session_id is None:
            session_id = ledger.create_session(owner).session_id
        now = datetime.now(UTC)
        run = Run(
            run_id=run_id_of(session_id, number),
            session_id=session_id,
            owner=owner,
            base_model=MODEL,
            lora=LoraConfig(rank=8, seed=2**63 - 1, train_unembed=False),
            created_at=now,
            last_request_at=now,
            user_metadata={"purpose": "test"},
        )
        ledger.create_run(run, CreateRun(MODEL, run.lora))
        return run

    return make


@pytest.fixture
def run(new_run: Callable[..., Run]) -> Run:
    return new_run()
