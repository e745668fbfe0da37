"""What `/metrics` tells, in the text format of Prometheus: no names of runs, and no content.

docs/reference/metrics.md says what each number means; a test compares.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.exposition import choose_encoder
from prometheus_client.registry import Collector
from starlette.requests import Request
from starlette.responses import Response

from tinsmith.api.front import front_of, in_thread
from tinsmith.api.project_metrics import project_metrics
from tinsmith.domain.engine_report import EngineState

Engines = Callable[[], Mapping[str, EngineState]]
"""The engines' newest states, by base model."""

COUNTERS = {
    "prompt_tokens": ("tinsmith_prompt_tokens", "Tokens of the prompts that were started."),
    "cached_prompt_tokens": (
        "tinsmith_cached_prompt_tokens",
        "Those of them that were found in the cache and not computed.",
    ),
    "generated_tokens": ("tinsmith_generated_tokens", "Tokens generated."),
    "decode_steps": ("tinsmith_decode_steps", "Passes that gave active sequences a token each."),
    "put_back": (
        "tinsmith_sequences_put_back",
        "Sequences that gave up their room in the cache and were read again later.",
    ),
    "training_tokens": ("tinsmith_training_tokens", "Tokens of batches that added to a gradient."),
    "optim_steps": ("tinsmith_optim_steps", "Optimizer steps."),
    "runs_restored": ("tinsmith_runs_restored", "Runs made again from snapshot and log."),
    "runs_inexact": ("tinsmith_runs_inexact", "Those of them that came back with other bits."),
    "replay_s": ("tinsmith_replay_seconds", "The engine's time that repeating the log took."),
    "snapshots_written": ("tinsmith_snapshots_written", "Snapshots of runs written to disk."),
}
GAUGES = {
    "requests_waiting": (
        "tinsmith_sample_requests_waiting",
        "Requests for samples of which some have not been started.",
    ),
    "sequences_active": ("tinsmith_sequences_active", "Sequences being generated."),
    "blocks_used": ("tinsmith_cache_blocks_used", "Blocks of the KV cache that sequences hold."),
    "blocks_reusable": (
        "tinsmith_cache_blocks_reusable",
        "Blocks that nobody holds, kept for prompts that begin with the same tokens.",
    ),
    "blocks_limit": ("tinsmith_cache_blocks_limit", "Blocks that there may be of both."),
    "block_bytes": ("tinsmith_cache_block_bytes", "Memory of a block."),
    "unsaved_s": (
        "tinsmith_unsaved_engine_seconds",
        "The most engine time of any run that a restart would repeat.",
    ),
    "token_operations": (
        "tinsmith_token_operations",
        "Additions and multiplications of a token's way forward through the linear layers.",
    ),
    "device_operations_per_s": (
        "tinsmith_device_operations_per_second",
        "Those that the device did in a second when the engine started.",
    ),
    "resident_bytes": ("tinsmith_engine_resident_bytes", "Host memory of the engine's process."),
    "device_bytes": ("tinsmith_engine_device_bytes", "Memory that it holds of a CUDA device."),
}
"""A field of the engine's report -> name and help."""


class EngineCollector(Collector):
    def __init__(self, engines: Engines) -> None:
        self._engines = engines

    def collect(self) -> Iterator[Metric]:
        states = self._engines()
        ready = GaugeMetricFamily(
            "tinsmith_engine_ready", "1 while a base model answers.", labels=["base_model"]
        )
        restarts = CounterMetricFamily(
            "tinsmith_engine_restarts",
            "How often an engine ended by itself and was started again.",
            labels=["base_model"],
        )
        for name, state in states.items():
            ready.add_metric([name], float(state.is_ready))
            restarts.add_metric([name], state.num_restarts)
        yield ready
        yield restarts
        reports = {
            name: asdict(state.report) for name, state in states.items() if state.report is not None
        }
        for families, described in ((CounterMetricFamily, COUNTERS), (GaugeMetricFamily, GAUGES)):
            for field, (metric, about) in described.items():
                family = families(metric, about, labels=["base_model"])
                for name, report in reports.items():
                    family.add_metric([name], report[field])
                yield family
        waiting = GaugeMetricFamily(
            "tinsmith_ops_waiting",
            "Ops of runs that have not been executed.",
            labels=["base_model", "kind"],
        )
        for name, report in reports.items():
            for kind, count in report["ops_waiting"].items():
                waiting.add_metric([name, kind], count)
        yield waiting
        yield from project_metrics(
            (name, state.report) for name, state in states.items() if state.report is not None
        )


async def metrics(request: Request) -> Response:
    encode, media_type = choose_encoder(request.headers.get("accept", ""))
    text = await in_thread(encode, front_of(request).registry)
    return Response(text, headers={"content-type": media_type})
