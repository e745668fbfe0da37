"""What `/metrics` tells, and to whom."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from prometheus_client.openmetrics.parser import (
    text_string_to_metric_families as read_openmetrics,
)
from prometheus_client.parser import text_string_to_metric_families
from starlette.testclient import TestClient
from tinsmith.domain.engine_report import (
    WAIT_S_BOUNDS,
    WAIT_TURNS_BOUNDS,
    EngineReport,
    EngineState,
    ProjectReport,
)

REPORT = EngineReport(
    prompt_tokens=100,
    cached_prompt_tokens=64,
    generated_tokens=7,
    blocks_used=3,
    block_bytes=4096,
    runs_restored=3,
    replay_s=1.5,
    unsaved_s=0.25,
    resident_bytes=10**9,
    ops_waiting={"forward_backward": 2, "optim_step": 0},
    projects={
        "anna": ProjectReport(
            ops_waiting=2,
            requests_waiting=1,
            turns=5,
            tokens=700,
            wait_turns=[3, 1, *[0] * (len(WAIT_TURNS_BOUNDS) - 2), 2],
            wait_turns_sum=4001,
            wait_s=[6, *[0] * len(WAIT_S_BOUNDS)],
            wait_s_sum=0.05,
        )
    },
)

Samples = dict[tuple[str, tuple[tuple[str, str], ...]], float]


def read(client: TestClient) -> Samples:
    response = client.get("/metrics")
    assert response.status_code == 200
    assert response.headers["content-type"].startswith("text/plain; version=0.0.4")
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(response.text)
        for sample in family.samples
    }


def of(samples: Samples, name: str, **labels: str) -> float | None:
    return samples.get((name, tuple(sorted(labels.items()))))


@pytest.fixture
def watched(rooms) -> Iterator[TestClient]:
    states = {"org/tiny": EngineState(True, REPORT), "org/loading": EngineState(False, None, 2)}
    with rooms.client(key=None, engines=lambda: states) as client:
        yield client


def test_what_the_engines_report_is_told_by_base_model(watched):
    samples = read(watched)

    assert of(samples, "tinsmith_prompt_tokens_total", base_model="org/tiny") == 100
    assert of(samples, "tinsmith_cached_prompt_tokens_total", base_model="org/tiny") == 64
    assert of(samples, "tinsmith_cache_blocks_used", base_model="org/tiny") == 3
    assert of(samples, "tinsmith_cache_block_bytes", base_model="org/tiny") == 4096
    for name, value in (
        ("runs_restored_total", 3),
        ("replay_seconds_total", 1.5),
        ("unsaved_engine_seconds", 0.25),
        ("engine_resident_bytes", 10**9),
    ):
        assert of(samples, f"tinsmith_{name}", base_model="org/tiny") == value
    kinds = {kind: {"base_model": "org/tiny", "kind": kind} for kind in REPORT.ops_waiting}
    assert of(samples, "tinsmith_ops_waiting", **kinds["forward_backward"]) == 2
    assert of(samples, "tinsmith_ops_waiting", **kinds["optim_step"]) == 0


def test_projects_are_told_with_what_waits_and_how_long_it_did(watched):
    samples = read(watched)

    labels = {"base_model": "org/tiny", "project": "anna"}
    assert of(samples, "tinsmith_project_ops_waiting", **labels) == 2
    assert of(samples, "tinsmith_project_sample_requests_waiting", **labels) == 1
    assert of(samples, "tinsmith_project_turns_total", **labels) == 5
    assert of(samples, "tinsmith_project_tokens_total", **labels) == 700
    turns = "tinsmith_project_wait_turns"
    for bound, count in ((0, 3), (1, 4), (1024, 4)):
        assert of(samples, f"{turns}_bucket", **labels, le=str(float(bound))) == count
    assert of(samples, f"{turns}_bucket", **labels, le="+Inf") == 6
    assert of(samples, f"{turns}_count", **labels) == 6
    assert of(samples, f"{turns}_sum", **labels) == 4001
    assert of(samples, "tinsmith_project_wait_seconds_bucket", **labels, le="0.01") == 6


def test_of_an_engine_that_is_not_there_only_that_and_its_restarts_are_told(watched):
    samples = read(watched)

    assert of(samples, "tinsmith_engine_ready", base_model="org/tiny") == 1
    assert of(samples, "tinsmith_engine_ready", base_model="org/loading") == 0
    assert of(samples, "tinsmith_engine_restarts_total", base_model="org/loading") == 2
    assert [name for name, labels in samples if ("base_model", "org/loading") in labels] == [
        "tinsmith_engine_ready",
        "tinsmith_engine_restarts_total",
    ]


def test_requests_are_counted_by_the_pattern_of_their_route(rooms, watched):
    headers = {"X-API-Key": "tml-test"}
    for run in ("one", "two"):
        assert watched.get(f"/api/v1/training_runs/{run}", headers=headers).status_code == 404
    watched.get("/api/v1/no/such/path")
    watched.get("/v1/models")
    text = watched.get("/metrics").text
    samples = read(watched)

    route = "/api/v1/training_runs/{run}"
    assert of(samples, "tinsmith_http_requests_total", route=route, status="404") == 2
    assert of(samples, "tinsmith_http_requests_total", route="none", status="404") == 1
    assert of(samples, "tinsmith_http_requests_total", route="/v1/models", status="401") == 1
    assert of(samples, "tinsmith_http_request_seconds_count", route=route) == 2
    assert of(samples, "tinsmith_http_request_seconds_bucket", route=route, le="+Inf") == 2
    assert "no/such" not in text and "two" not in text


def test_a_bug_is_counted_as_500(rooms):
    def is_healthy() -> bool:
        raise RuntimeError("a bug")

    with rooms.client(is_healthy=is_healthy) as client:
        assert client.get("/api/v1/healthz").status_code == 500
        samples = read(client)
    route = "/api/v1/healthz"
    assert of(samples, "tinsmith_http_requests_total", route=route, status="500") == 1


def test_other_machines_need_a_key(rooms):
    with rooms.client(key=None, host="rebound.example") as stranger:
        assert stranger.get("/metrics").status_code == 401
    with rooms.client(key=None, loopback=False) as proxied:
        assert proxied.get("/metrics").status_code == 401


def test_openmetrics_is_told_to_who_asks_for_it(watched):
    accept = {"accept": "application/openmetrics-text; version=1.0.0"}
    families = read_openmetrics(watched.get("/metrics", headers=accept).text)
    assert "tinsmith_prompt_tokens" in {family.name for family in families}
