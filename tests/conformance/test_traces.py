"""What a server tells an OpenTelemetry collector: a real one's protocol, and the SDK in front."""

from __future__ import annotations

import gzip
import os
import subprocess
import sys
import threading
from collections import defaultdict
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import tinker
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from sdk_steps import MODEL, batch_of
from server_process import serving

SECRET = "tml-never-to-be-told"


@pytest.fixture
def collector() -> Iterator[tuple[str, list[bytes]]]:
    """Its address, and the bodies that it was sent."""
    bodies: list[bytes] = []

    class Collector(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            is_packed = self.headers.get("Content-Encoding") == "gzip"
            bodies.append(gzip.decompress(body) if is_packed else body)
            self.send_response(200)
            self.end_headers()

        def log_message(self, format: str, *args: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Collector)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}", bodies
    server.shutdown()
    server.server_close()


def test_a_request_is_one_trace_through_front_and_engine(
    collector, model_directory: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    address, bodies = collector
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", address)
    with serving(tmp_path, model_directory, MODEL) as live:
        client = tinker.ServiceClient(base_url=live.url, api_key=SECRET)
        run = client.create_lora_training_client(MODEL, rank=4).result()
        run.forward_backward(batch_of(1), "cross_entropy").result()
        run.optim_step(tinker.AdamParams(learning_rate=1e-3)).result()
        client.close("success").result()
        run_id = run.model_id

    spans = defaultdict(dict)
    roles = defaultdict(set)
    for body in bodies:
        for resource in ExportTraceServiceRequest.FromString(body).resource_spans:
            facts = {one.key: one.value.string_value for one in resource.resource.attributes}
            for span in (span for scope in resource.scope_spans for span in scope.spans):
                spans[span.trace_id][span.name] = span
                roles[span.trace_id].add(facts["tinsmith.role"])
    by_request = {
        attribute.value.string_value: trace_id
        for trace_id, named in spans.items()
        if "request" in named  # not the release that the server itself asks for
        for attribute in named["request"].attributes
        if attribute.key == "tinsmith.request_id"
    }
    for seq_id in range(3):
        trace_id = by_request[f"{run_id}#{seq_id}"]
        named = spans[trace_id]
        assert set(named) == {"request", "queued", "executed", "settled"}
        assert roles[trace_id] == {"front", "engine"}
        root = named.pop("request")
        assert root.parent_span_id == b""
        assert {span.parent_span_id for span in named.values()} == {root.span_id}
        assert all(span.start_time_unix_nano <= span.end_time_unix_nano for span in named.values())
    assert not any(SECRET.encode() in body or b"cross_entropy" in body for body in bodies)


def test_without_an_endpoint_nothing_of_it_is_loaded():
    program = (
        "import sys, tinsmith.app, tinsmith.engine.process, tinsmith.tracing as t;"
        "assert t.start('front') is None;"
        "print([n for n in sys.modules if n.startswith('opentelemetry')])"
    )
    quiet = {name: value for name, value in os.environ.items() if not name.startswith("OTEL_")}
    done = subprocess.run(
        [sys.executable, "-c", program], env=quiet, capture_output=True, text=True, check=True
    )

    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize(
    "environment",
    [
        {"OTEL_SDK_DISABLED": "true"},
        {"OTEL_TRACES_EXPORTER": "none"},
        {"OTEL_EXPORTER_OTLP_ENDPOINT": ""},
    ],
)
def test_the_usual_variables_switch_it_off(monkeypatch: pytest.MonkeyPatch, environment):
    from tinsmith import tracing

    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:9")
    for name, value in environment.items():
        monkeypatch.setenv(name, value)

    assert tracing.start("front") is None
