"""Makes the dumps of this folder: a ledger with rows in every table, written by released code.

    git worktree add OLD COMMIT
    PYTHONPATH=OLD/tinsmith/src python dump_ledger.py > schema_N.sql

The script keeps to what the ledger of that COMMIT can do; a new release gets a dump from it, with
rows in the tables that are new. Schema 1 is commit 4e2037c, schema 2 is d827128.
"""

from __future__ import annotations

import sqlite3
import sys
import tempfile
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
from tinsmith.domain.addresses import CheckpointAddress, CheckpointKind, run_id_of
from tinsmith.domain.datum import Datum
from tinsmith.domain.ops import (
    AdamParams,
    CreateRun,
    ForwardBackward,
    LoraConfig,
    OptimStep,
    Sample,
    SamplingParams,
    SaveState,
)
from tinsmith.domain.outcomes import (
    Failed,
    FailureCategory,
    ForwardBackwardDone,
    RunCreated,
    Sampled,
    SampledSequence,
    Saved,
    StepDone,
    StopReason,
    Succeeded,
)
from tinsmith.domain.records import Checkpoint, Run, Sampler
from tinsmith.ledger.ledger import Ledger

MODEL = "org/tiny"


def fill(ledger: Ledger) -> None:
    epoch = ledger.acquire_lease(MODEL, "pid 1")
    session = ledger.create_session(
        "local",
        idempotency_key="key",
        tags=["a", "b"],
        user_metadata={"k": "ü"},
        display_name="one",
    )
    if hasattr(ledger, "set_project"):
        ledger.set_project(session.session_id, "mail")
    ended = ledger.create_session("local")
    now = datetime.now(UTC)
    run = Run(
        run_id=run_id_of(session.session_id, 0),
        session_id=session.session_id,
        owner="local",
        base_model=MODEL,
        lora=LoraConfig(rank=8, seed=2**63 - 1, train_unembed=False),
        created_at=now,
        last_request_at=now,
        user_metadata={"purpose": "test"},
    )
    address = CheckpointAddress(run.run_id, CheckpointKind.TRAINING, "first")
    weights = {"target_tokens": np.arange(2), "weights": np.ones(2, np.float32)}
    batch = ForwardBackward((Datum(np.arange(2, dtype=np.int32), weights),), "cross_entropy")
    logprobs = (np.array([-0.5, -0.25], np.float32),)

    def log(seq_id: int, op, outcome=None, checkpoint=None) -> None:
        request_id = ledger.append(run.run_id, seq_id, op, owner="local", base_model=MODEL)
        if outcome is not None:
            ledger.settle(request_id, outcome, lease_epoch=epoch, checkpoint=checkpoint)

    created = ledger.create_run(run, CreateRun(MODEL, run.lora))
    ledger.settle(created, Succeeded(RunCreated(run.run_id)), lease_epoch=epoch)
    log(1, batch, Succeeded(ForwardBackwardDone(logprobs, {"loss:sum": 0.75})))
    log(2, OptimStep(AdamParams(learning_rate=0.5)), Succeeded(StepDone({"grad_norm:mean": 1.5})))
    ledger.append_failed(
        run.run_id,
        3,
        "forward_backward",
        Failed(FailureCategory.USER, "datum 0: no tokens"),
        owner="local",
        base_model=MODEL,
    )
    row = Checkpoint(
        address=address,
        owner="local",
        base_model=MODEL,
        lora=run.lora,
        created_at=now,
        size_bytes=2**40,
        digest="00",
        expires_at=now + timedelta(days=36500),
        user_metadata={"step": "1"},
    )
    log(4, SaveState(address), Succeeded(Saved(address)), row)
    log(5, batch)
    log(7, OptimStep(AdamParams()))
    sampler = Sampler(f"{session.session_id}:sample:0", session.session_id, "local", MODEL, address)
    ledger.create_sampler(sampler)
    for seq_id in (0, 2**63 - 1):
        op = Sample(np.array([1], np.int32), SamplingParams(seed=5))
        asked = ledger.append(sampler.sampler_id, seq_id, op, owner="local", base_model=MODEL)
        if seq_id == 0:
            tokens, chosen = np.array([2], np.int32), np.array([-1.0], np.float32)
            sequence = SampledSequence(tokens, chosen, StopReason.STOP)
            ledger.settle(asked, Succeeded(Sampled((sequence,))), lease_epoch=epoch)
    ledger.end_session(ended.session_id, "success")


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, "ledger.db")
        ledger = Ledger.open(file)
        fill(ledger)
        ledger.close()
        connection = sqlite3.connect(file)
        sys.stdout.writelines(f"{line}\n" for line in connection.iterdump())
        connection.close()


if __name__ == "__main__":
    main()
