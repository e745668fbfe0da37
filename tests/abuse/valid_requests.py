"""A request that is taken as it is, for every endpoint there is."""

from __future__ import annotations

import itertools
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, cast

import httpx
import numpy as np
from abused_server import KEY, MODEL
from raw_http import Request
from starlette.routing import Mount, Route
from tinker.proto import tinker_public_pb2 as wire
from tinsmith.api.openai.app import create_openai_app
from tinsmith.api.routes import every_route

SAMPLING = {"max_tokens": 2, "seed": 1, "temperature": 1.0, "top_k": -1, "top_p": 1.0, "stop": []}
OPENAI = {
    "model": MODEL,
    "max_tokens": 2,
    "n": 1,
    "seed": 3,
    "stop": ["x"],
    "stream": False,
    "temperature": 0.5,
    "top_p": 0.9,
    "user": "u",
}
COMPLETION = {**OPENAI, "prompt": "Subject: a", "echo": False, "logprobs": 1, "best_of": 1}
CHAT = {
    **OPENAI,
    "messages": [{"role": "system", "content": "s"}, {"role": "user", "content": "hi"}],
    "logprobs": True,
    "top_logprobs": 1,
    "tool_choice": "auto",
    "tools": [{"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}],
    "chat_template_kwargs": {"a": True},
    "stream": True,
    "stream_options": {"include_usage": True},
}


@dataclass(frozen=True)
class Endpoint:
    method: str
    path: str
    """With the names of its parts in braces."""


def every_endpoint() -> list[Endpoint]:
    """All that the application answers, so that a new endpoint is here without being told."""

    def walk(routes, prefix: str) -> Iterator[Endpoint]:
        for route in routes:
            if isinstance(route, Mount):
                yield from walk(route.routes, prefix + route.path)
            else:
                assert isinstance(route, Route), route
                for method in sorted((route.methods or set()) - {"HEAD"}):
                    yield Endpoint(method, prefix + route.path)

    return list(walk(every_route(create_openai_app(cast(Any, None))), ""))


class Things:
    """A session with a run, a checkpoint and a sampler, for requests to be about."""

    def __init__(self, http: httpx.Client) -> None:
        self._numbers = itertools.count(1)

        def post(call: str, body: dict[str, Any]) -> dict[str, Any]:
            answer = http.post(f"/{call}", json=body)
            assert answer.status_code == 200, answer.text
            return answer.json()

        def result_of(submitted: dict[str, Any]) -> dict[str, Any]:
            answer = http.post("/retrieve_future", json=submitted)
            while answer.status_code == 408:
                answer = http.post("/retrieve_future", json=submitted)
            assert answer.status_code == 200, answer.text
            return answer.json()

        session = post("create_session", {"tags": []})["session_id"]
        new = {"session_id": session, "model_seq_id": 0, "base_model": MODEL}
        run = result_of(post("create_model", {**new, "lora_config": {"rank": 2}}))["model_id"]
        saved = post("save_weights", {"model_id": run, "seq_id": 1, "path": "a"})
        path = result_of(saved)["path"]
        new["sampling_session_seq_id"] = 0
        sampler = post("create_sampling_session", new)["sampling_session_id"]
        self.run = run
        self.parts = {
            "session": session,
            "run": run,
            "kind": "weights",
            "name": "a",
            "sampler": sampler,
            "path": "adapter_config.json",
            "model": MODEL,
            "revision": "main",
            "file": "tokenizer.json",
            "rest": "api/models",
        }
        self._body: dict[str, Any] = {
            **new,
            "model_id": run,
            "path": "a",
            "overwrite": True,
            "lora_config": {
                "rank": 2,
                "seed": 1,
                "train_attn": True,
                "train_mlp": True,
                "train_unembed": True,
            },
            "optimizer_config": {"type": "adamw"},
            "sampling_session_id": sampler,
            "prompt": {"chunks": [{"type": "encoded_text", "tokens": [5, 6, 7]}]},
            "sampling_params": SAMPLING,
            "num_samples": 1,
            "prompt_logprobs": True,
            "prompt_logprobs_last_n": 1,
            "topk_prompt_logprobs": 1,
            "topk_sample_logprobs": 1,
            "prompt_alt_tokens_k": 1,
            "target_prompt_logprobs": {"dtype": "int64", "shape": [2, 1], "data": [6, 7]},
            "adam_params": {
                "learning_rate": 0.001,
                "beta1": 0.9,
                "beta2": 0.95,
                "eps": 1e-8,
                "weight_decay": 0.0,
                "grad_clip_norm": 1.0,
            },
            "request_id": saved["request_id"],
            "tinker_path": path,
            "model_path": path,
            "source_path": path,
            "destination_project_id": "p",
            "project_id": "p",
            "project_ids": ["p", "default"],
            "ttl_seconds": 4000,
            "user_metadata": {"a": "b"},
            "display_name": "d",
            "sdk_version": "0.38.0",
            "optimizer": True,
            "kind": "snapshot",
            "reason": {"type": "success"},
            "tags": ["t"],
            "target": {"sampling_session_id": sampler, "cloned_sampler_id": 0},
            "prev_cursor": 0,
            "timeout": 0,
            "limit": 5,
            "owner": {"type": "own", "owner_urns": ["tml:organization_user:local"]},
            "statuses": [{"type": "active"}, {"type": "client_finished", "reasons": ["success"]}],
            "cursor": {"last_created_at": "2026-01-01T00:00:00+00:00", "last_session_id": "x"},
            "events": [],
        }

    def end(self, http: httpx.Client) -> None:
        """The session is over, and with it its runs."""
        http.post(f"/sessions/{self.parts['session']}/finish", json={})

    def body(self, endpoint: Endpoint) -> dict[str, Any]:
        """What its JSON may hold: every field that any endpoint reads, each with a value that it
        takes. The others are ignored, but by /v1."""
        if endpoint.path.startswith("/v1/"):
            return CHAT if "chat" in endpoint.path else COMPLETION
        number = next(self._numbers)
        # A new place for each op of the run; a new session and sampler for what makes one.
        body = {**self._body, "seq_id": 1 + number, "model_seq_id": 1 + number % 16}
        body["sampling_session_seq_id"] = 1 + number % 16
        if "/load_weights" in endpoint.path:
            body["path"] = body["tinker_path"]
            if number % 2:
                del body["session_id"]
        return body

    def batch(self) -> wire.ForwardBackwardRequest:
        number = next(self._numbers)
        batch = wire.ForwardBackwardRequest(
            model_id=self.run, seq_id=1 + number, loss_fn="cross_entropy"
        )
        for length in (3, 4):
            datum = batch.data.add()
            tokens = np.arange(5, 5 + length)
            datum.model_input.add().encoded_text.tokens = tokens.astype(np.int32).tobytes()
            for name, array, dtype in (
                ("target_tokens", tokens.astype(np.int64), wire.DTYPE_INT64),
                ("weights", np.ones(length, np.float32), wire.DTYPE_FLOAT32),
            ):
                tensor = datum.loss_fn_inputs[name]
                tensor.dense, tensor.dtype = array.tobytes(), dtype
                tensor.shape.append(length)
        return batch

    def request(self, endpoint: Endpoint) -> Request:
        target = re.sub(r"\{(\w+)(:path)?\}", lambda part: self.parts[part[1]], endpoint.path)
        if "/files/" in target:
            target += "?expires=2000000000&signature=00"
        headers: tuple[tuple[bytes, bytes], ...] = (
            (b"X-API-Key", KEY.encode()),
            (b"Authorization", b"Bearer " + KEY.encode()),
        )
        body, kind = b"", b"application/json"
        if endpoint.path.endswith("/forward_backward"):
            body, kind = self.batch().SerializeToString(), b"application/x-protobuf"
        elif endpoint.method in ("POST", "PUT"):
            body = json.dumps(self.body(endpoint)).encode()
        if body:
            headers += ((b"Content-Type", kind),)
        return Request(endpoint.method.encode(), target.encode(), headers, body)
