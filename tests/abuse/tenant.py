"""A project with one of everything that has an id."""

from __future__ import annotations

import uuid
from dataclasses import dataclass, field
from typing import Any

import httpx
import numpy as np
from tinker.proto import tinker_public_pb2 as wire

MODEL = "tinsmith/tiny"
SAVES = {
    "weights": "save_weights",
    "sampler_weights": "save_weights_for_sampler",
    "external_weights": "save_weights_external",
}
SAMPLE = {
    "prompt": {"chunks": [{"type": "encoded_text", "tokens": [5, 6, 7]}]},
    "sampling_params": {"max_tokens": 1, "seed": 1, "temperature": 0.0},
    "num_samples": 1,
}


@dataclass(frozen=True)
class Ids:
    project: str
    key_id: str
    session: str
    ended_session: str
    run: str
    ended_run: str
    sampler: str
    unnamed_sampler: str
    checkpoints: tuple[str, ...]
    """Addresses: one of each kind, an unnamed one, and one of the run that has ended."""
    requests: tuple[str, ...]
    """Of a run's creation, of ops and of samples."""
    label: str
    """The SDK's project_id of its session."""

    def every(self) -> list[str]:
        return [
            text
            for value in vars(self).values()
            for text in (value if isinstance(value, tuple) else (value,))
        ]

    def twins(self) -> dict[str, str]:
        """What never was, for each thing that all ids are made of, of the same shape and length."""
        return {
            self.session: str(uuid.uuid4()),
            self.ended_session: str(uuid.uuid4()),
            self.label: "y" * len(self.label),
            self.project: "x" * len(self.project),
            self.key_id: "key-" + "0" * (len(self.key_id) - 4),
        }


@dataclass
class Tenant:
    """Makes things with its key, by plain HTTP."""

    url: str
    project: str
    key_id: str
    key: str
    http: httpx.Client = field(init=False)
    _next_seq_id: int = 1

    def __post_init__(self) -> None:
        headers = {"X-API-Key": self.key, "Authorization": f"Bearer {self.key}"}
        self.http = httpx.Client(base_url=self.url, headers=headers, timeout=120.0)

    def post(self, call: str, body: dict[str, Any], **headers: str) -> dict[str, Any]:
        answer = self.http.post(f"/api/v1/{call}", json=body, headers=headers)
        assert answer.status_code == 200, answer.text
        return answer.json()

    def outcome(self, request_id: str) -> httpx.Response:
        answer = self.http.post("/api/v1/retrieve_future", json={"request_id": request_id})
        while answer.status_code == 408:
            answer = self.http.post("/api/v1/retrieve_future", json={"request_id": request_id})
        assert answer.status_code == 200, answer.text
        return answer

    def result(self, request_id: str) -> dict[str, Any]:
        return self.outcome(request_id).json()

    def submit(self, call: str, run: str, **fields: Any) -> str:
        self._next_seq_id += 1
        return self.post(call, {"model_id": run, "seq_id": self._next_seq_id, **fields})[
            "request_id"
        ]

    def batch(self, run: str, seq_id: int) -> bytes:
        batch = wire.ForwardBackwardRequest(model_id=run, seq_id=seq_id, loss_fn="cross_entropy")
        datum = batch.data.add()
        datum.model_input.add().encoded_text.tokens = np.arange(5, 8, dtype=np.int32).tobytes()
        for name, array, dtype in (
            ("target_tokens", np.arange(6, 9, dtype=np.int64), wire.DTYPE_INT64),
            ("weights", np.ones(3, np.float32), wire.DTYPE_FLOAT32),
        ):
            tensor = datum.loss_fn_inputs[name]
            tensor.dense, tensor.dtype = array.tobytes(), dtype
            tensor.shape.append(3)
        return batch.SerializeToString()

    def start_run(self) -> tuple[str, str, str]:
        """(session, run, request_id of its creation)."""
        label = f"label-of-{self.project}"
        session = self.post("create_session", {"tags": [], "project_id": label})["session_id"]
        new = {"session_id": session, "model_seq_id": 0, "base_model": MODEL}
        made = self.post("create_model", {**new, "lora_config": {"rank": 2}})["request_id"]
        return session, self.result(made)["model_id"], made

    def make_everything(self) -> Ids:
        session, run, made = self.start_run()
        ended_session, ended_run, _ = self.start_run()
        requests, checkpoints = [made], []
        trained = self.http.post("/api/v1/forward_backward", content=self.batch(run, 1))
        requests.append(trained.json()["request_id"])
        self.outcome(requests[-1])
        for owner in (run, ended_run):
            for kind, call in SAVES.items():
                saved = self.submit(call, owner, path="kept")
                requests.append(saved)
                checkpoints.append(self.result(saved)["path"])
                assert f"/{kind}/" in checkpoints[-1]
        unnamed = self.submit("save_weights_for_sampler", run, sampling_session_seq_id=5)
        requests.append(unnamed)
        unnamed_sampler = self.result(unnamed)["sampling_session_id"]
        sampler = self.post(
            "create_sampling_session",
            {"session_id": session, "sampling_session_seq_id": 0, "model_path": checkpoints[1]},
        )["sampling_session_id"]
        for one in (sampler, unnamed_sampler):
            sampled = self.post("asample", {"sampling_session_id": one, "seq_id": 1, **SAMPLE})
            requests.append(sampled["request_id"])
            self.outcome(sampled["request_id"])
        self.post(f"sessions/{ended_session}/finish", {})
        return Ids(
            project=self.project,
            key_id=self.key_id,
            session=session,
            ended_session=ended_session,
            run=run,
            ended_run=ended_run,
            sampler=sampler,
            unnamed_sampler=unnamed_sampler,
            checkpoints=tuple(checkpoints),
            requests=tuple(requests),
            label=f"label-of-{self.project}",
        )
