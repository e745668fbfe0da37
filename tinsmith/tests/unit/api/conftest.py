"""A real service on a real ledger, and a clerk that settles ops as an engine would."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pytest
from starlette.testclient import TestClient
from tinsmith.api.app import create_app
from tinsmith.checkpoints.store import CheckpointStore
from tinsmith.config import Config, Limits
from tinsmith.domain import ops
from tinsmith.domain.addresses import CheckpointAddress
from tinsmith.domain.outcomes import (
    ForwardBackwardDone,
    Loaded,
    Released,
    Result,
    RunCreated,
    Sampled,
    SampledSequence,
    Saved,
    StepDone,
    StopReason,
    Succeeded,
)
from tinsmith.domain.records import Checkpoint, ServedModel
from tinsmith.ledger.entries import OpRecord, Settlement
from tinsmith.ledger.ledger import Ledger
from tinsmith.nn.losses import LOSSES
from tinsmith.service.service import Service

MODEL = "org/tiny"
KEY = "tml-test"


class Clerk:
    """Settles what it is rung for, in a thread, while it is not paused."""

    def __init__(self, ledger: Ledger, store: CheckpointStore) -> None:
        self._ledger = ledger
        self._store = store
        self._epoch = ledger.acquire_lease(MODEL, "clerk")
        self._bell: queue.SimpleQueue[bool] = queue.SimpleQueue()
        self._row = 0
        self.may_work = threading.Event()
        self.may_work.set()
        self.on_settled: Callable[[list[str]], None] = lambda request_ids: None
        self._thread = threading.Thread(target=self._work)
        self._thread.start()

    def ring(self, base_model: str) -> None:
        assert base_model == MODEL
        self._bell.put(True)

    def stop(self) -> None:
        self.may_work.set()
        self._bell.put(False)
        self._thread.join()

    def _work(self) -> None:
        while self._bell.get():
            self.may_work.wait()
            for record in self._ledger.pending(MODEL, self._row):
                self._row = record.row
                result, checkpoint = self._do(record)
                self._ledger.settle_many(
                    [Settlement(record.request_id, Succeeded(result), self._epoch, checkpoint)]
                )
                self.on_settled([record.request_id])

    def _do(self, record: OpRecord) -> tuple[Result, Checkpoint | None]:
        match record.op:
            case ops.CreateRun():
                return RunCreated(record.scope), None
            case ops.CreateRunFromState(source=source):
                return Loaded(record.scope, source), None
            case ops.LoadState(source=source):
                return Loaded(record.scope, source), None
            case ops.ForwardBackward(data=data):
                logprobs = tuple(
                    -np.ones(datum.loss_fn_inputs["target_tokens"].shape, np.float32)
                    for datum in data
                )
                return ForwardBackwardDone(logprobs, {"loss:sum": float(len(data))}), None
            case ops.OptimStep():
                return StepDone({"grad_norm:mean": 1.5, "broken:mean": float("nan")}), None
            case ops.SaveState(address=address, ttl_s=ttl_s, user_metadata=metadata):
                return Saved(address), self._write(record, address, ttl_s, dict(metadata))
            case ops.SaveForSampler(address=address, sampler_id=sampler_id, ttl_s=ttl_s):
                checkpoint = self._write(record, address, ttl_s, {}, listed=sampler_id is None)
                return Saved(address, sampler_id), checkpoint
            case ops.SaveExternal(address=address, ttl_s=ttl_s):
                return Saved(address), self._write(record, address, ttl_s, {})
            case ops.Release():
                return Released(record.scope), None
            case ops.Sample(num_samples=num_samples):
                sequence = SampledSequence(
                    np.asarray([3, 4], np.int32),
                    np.asarray([-0.5, -0.25], np.float32),
                    StopReason.LENGTH,
                )
                return Sampled((sequence,) * num_samples), None

    def _write(
        self,
        record: OpRecord,
        address: CheckpointAddress,
        ttl_s: int | None,
        metadata: dict[str, str],
        *,
        listed: bool = True,
    ) -> Checkpoint:
        run = self._ledger.run(record.scope)
        assert run is not None
        written = self._store.write(
            address,
            adapter={"lora_A": np.ones((2, 3), np.float32)},
            adapter_config={"r": 2},
            overwrite=True,
        )
        now = datetime.now(UTC)
        return Checkpoint(
            address=address,
            owner=record.owner,
            base_model=MODEL,
            lora=run.lora,
            created_at=now,
            size_bytes=written.size_bytes,
            digest=written.digest,
            expires_at=None if ttl_s is None else now + timedelta(seconds=ttl_s),
            is_listed=listed,
            user_metadata=metadata,
        )


@dataclass
class Rooms:
    ledger: Ledger
    service: Service
    clerk: Clerk
    config: Config
    model_directory: Path

    def client(self, key: str | None = KEY, host: str = "127.0.0.1:8765", **changes) -> TestClient:
        settings = {
            "is_healthy": lambda: True,
            "engines": dict,
            "limits": self.config.limits,
            "poll_hold_s": 5.0,
            **changes,
        }
        return TestClient(
            create_app(self.service, **settings),
            base_url=f"http://{host}",
            headers={} if key is None else {"X-API-Key": key},
            client=("127.0.0.1", 50000),
            raise_server_exceptions=False,
        )


@pytest.fixture
def rooms(tmp_path: Path) -> Iterator[Rooms]:
    model_directory = tmp_path / "model"
    model_directory.mkdir()
    (model_directory / "config.json").write_text("{}")
    (model_directory / "tokenizer.json").write_text('{"version": "1.0"}')
    (model_directory / "tokenizer_config.json").write_text("{}")
    (model_directory / "model.safetensors").write_bytes(b"weights")
    config = Config(home=tmp_path / "home", limits=Limits(max_rank=16, max_body_bytes=200_000))
    config.home.mkdir()
    ledger = Ledger.open(config.home / "ledger.db")
    store = CheckpointStore(config.home / "checkpoints")
    clerk = Clerk(ledger, store)
    service = Service.build(
        ledger,
        store,
        [ServedModel(MODEL, str(model_directory), vocab_size=50, max_context=64)],
        losses=list(LOSSES.values()),
        config=config,
        ring=clerk.ring,
    )
    clerk.on_settled = service.futures.wake
    yield Rooms(ledger, service, clerk, config, model_directory)
    clerk.stop()
    service.close()
    ledger.close()


@pytest.fixture
def client(rooms: Rooms) -> Iterator[TestClient]:
    with rooms.client() as client:
        yield client


@dataclass
class Run:
    """A training run as a client with plain HTTP drives it."""

    client: TestClient
    session_id: str
    run_id: str
    seq_id: int = 0

    def submit(self, call: str, **fields) -> str:
        self.seq_id += 1
        body = {"model_id": self.run_id, "seq_id": self.seq_id, **fields}
        response = self.client.post(f"/api/v1/{call}", json=body)
        assert response.status_code == 200, response.text
        return response.json()["request_id"]

    def result(self, request_id: str) -> dict:
        response = self.client.post("/api/v1/retrieve_future", json={"request_id": request_id})
        assert response.status_code == 200, response.text
        return response.json()

    def do(self, call: str, **fields) -> dict:
        return self.result(self.submit(call, **fields))


def start_run(client: TestClient) -> Run:
    session_id = client.post("/api/v1/create_session", json={"tags": []}).json()["session_id"]
    response = client.post(
        "/api/v1/create_model",
        json={
            "session_id": session_id,
            "model_seq_id": 0,
            "base_model": MODEL,
            "lora_config": {"rank": 4},
        },
    )
    assert response.status_code == 200, response.text
    run = Run(client, session_id, f"{session_id}:train:0")
    assert run.result(response.json()["request_id"])["model_id"] == run.run_id
    return run


@pytest.fixture
def run(client: TestClient) -> Run:
    return start_run(client)


@pytest.fixture
def start() -> Callable[[TestClient], Run]:
    """Starts a run for a client of one's own."""
    return start_run
