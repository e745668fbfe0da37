"""Tenants of a server with keys, over plain HTTP, and what the server tells of each."""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
from mail_batches import Batch
from overhead import forward_backward_message
from prometheus_client.parser import text_string_to_metric_families

RANK = 8


def tinsmith(home: Path, *arguments: str) -> str:
    """What a command prints that works beside the server of this home folder."""
    command = [sys.executable, "-m", "tinsmith.cli", *arguments, "--home", str(home)]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()


class Tenant:
    """A project with a key, a session, a run and a sampler of the base model."""

    def __init__(self, url: str, home: Path, project: str, base_model: str) -> None:
        self.project = project
        key = tinsmith(home, "keys", "create", "--project", project)
        self._http = httpx.Client(
            base_url=f"{url}/api/v1", headers={"X-API-Key": key}, timeout=60.0
        )
        self._wait_until_known()
        session = self._post("create_session", json={"tags": []})["session_id"]
        lora = {"rank": RANK, "seed": 0, "train_unembed": False}
        place = {"session_id": session, "model_seq_id": 0, "base_model": base_model}
        created = self._answer(self._post("create_model", json={**place, "lora_config": lora}))
        self._run_id = created.json()["model_id"]
        self._next_seq, self._next_sample = 1, 0
        place = {"session_id": session, "sampling_session_seq_id": 0, "base_model": base_model}
        self._sampler = self._post("create_sampling_session", json=place)["sampling_session_id"]
        self._stopped = threading.Event()

    def queue(self, batch: Batch, count: int) -> None:
        """Log the batch so many times; nobody waits for the results."""
        message = forward_backward_message(self._run_id, batch)
        for _ in range(count):
            self._submit(message)

    def wait_for(self, batch: Batch) -> float:
        """Log it and wait for the result: seconds."""
        message = forward_backward_message(self._run_id, batch)
        started = time.perf_counter()
        self._answer(self._submit(message))
        return time.perf_counter() - started

    def keep_sampling(self, prompt: list[int], max_tokens: int, num_samples: int) -> None:
        """One request after the other, in a thread, until `stop`."""

        def work() -> None:
            while not self._stopped.is_set():
                body = {
                    "sampling_session_id": self._sampler,
                    "seq_id": self._next_sample,
                    "prompt": {"chunks": [{"type": "encoded_text", "tokens": prompt}]},
                    "num_samples": num_samples,
                    "sampling_params": {"max_tokens": max_tokens, "seed": 0, "stop": []},
                }
                self._answer(self._post("asample", json=body))
                self._next_sample += 1

        self._stopped.clear()
        self._thread = threading.Thread(target=work, daemon=True)
        self._thread.start()

    def stop(self) -> None:
        self._stopped.set()
        self._thread.join()

    def _wait_until_known(self) -> None:
        """A running server notices a new key within a second or two."""
        for _ in range(100):
            if self._http.get("/sessions").status_code == 200:
                return
            time.sleep(0.1)
        raise SystemExit(f"the server does not know the key of {self.project}")

    def _submit(self, message: Any) -> dict[str, Any]:
        message.seq_id, self._next_seq = self._next_seq, self._next_seq + 1
        return self._post("forward_backward", content=message.SerializeToString())

    def _post(self, call: str, **body: Any) -> dict[str, Any]:
        response = self._http.post(f"/{call}", **body)
        if response.status_code != 200:
            raise SystemExit(f"{call} answered {response.status_code}: {response.text[:300]}")
        return response.json()

    def _answer(self, future: dict[str, Any]) -> httpx.Response:
        """Ask for it until it is there."""
        while True:
            response = self._http.post("/retrieve_future", json=future)
            is_json = response.headers["content-type"] == "application/json"
            told = response.json() if is_json else {}
            if response.status_code != 200 or "error" in told:
                raise SystemExit(f"an op failed: {response.text[:300]}")
            if told.get("type") != "try_again":
                return response


class Operator:
    """Has a key that opens /metrics."""

    def __init__(self, url: str, home: Path) -> None:
        key = tinsmith(home, "keys", "create", "--role", "read-only")
        self._http = httpx.Client(base_url=url, headers={"X-API-Key": key}, timeout=60.0)

    def told(self) -> Told:
        """What the engine has told last; it does so once a second."""
        response = self._http.get("/metrics")
        if response.status_code != 200:
            raise SystemExit(f"/metrics answered {response.status_code}: {response.text[:300]}")
        return Told(response.text)

    def told_when(self, is_there: Callable[[Told], bool], patience_s: float = 60.0) -> Told:
        """The first in which this holds."""
        deadline = time.monotonic() + patience_s
        while time.monotonic() < deadline:
            told = self.told()
            if is_there(told):
                return told
            time.sleep(0.1)
        raise SystemExit("the server does not tell what was waited for")


class Told:
    """What /metrics tells of projects at one moment."""

    def __init__(self, text: str) -> None:
        self.at = time.perf_counter()
        self._values: dict[tuple[str, str], float] = {}
        self._waits: dict[tuple[str, float], float] = {}
        for family in text_string_to_metric_families(text):
            for sample in family.samples:
                project = sample.labels.get("project")
                if project is None:
                    continue
                if sample.name == "tinsmith_project_wait_turns_bucket":
                    self._waits[project, float(sample.labels["le"])] = sample.value
                else:
                    self._values[sample.name, project] = sample.value

    def of(self, project: str, name: str) -> float:
        """One of `tinsmith_project_...`."""
        return self._values.get((f"tinsmith_project_{name}", project), 0.0)

    def num_waits(self, project: str) -> float:
        return max(self._counts(project).values(), default=0.0)

    def waited_since(self, before: Told, project: str, share: float) -> float:
        """Turns of others that this share of the project's ops since then waited at most."""
        then = before._counts(project)
        counts = {
            bound: count - then.get(bound, 0.0) for bound, count in self._counts(project).items()
        }
        wanted = share * max(counts.values())
        return min(bound for bound, count in counts.items() if count >= wanted)

    def _counts(self, project: str) -> dict[float, float]:
        return {bound: count for (name, bound), count in self._waits.items() if name == project}
