"""What `/metrics` tells of each project."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import accumulate

from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
)

from tinsmith.domain.engine_report import (
    WAIT_S_BOUNDS,
    WAIT_TURNS_BOUNDS,
    EngineReport,
    ProjectReport,
)

LABELS = ("base_model", "project")
GAUGES = {
    "ops_waiting": (
        "tinsmith_project_ops_waiting",
        "Ops of a project's runs that have not been executed.",
    ),
    "requests_waiting": (
        "tinsmith_project_sample_requests_waiting",
        "A project's requests for samples of which some have not been started.",
    ),
}
COUNTERS = {
    "turns": ("tinsmith_project_turns", "Turns that a project has had."),
    "tokens": (
        "tinsmith_project_tokens",
        "Tokens that went through the model for a project, in training and sampling.",
    ),
}
WAITS = {
    "wait_turns": (
        "tinsmith_project_wait_turns",
        "Turns of other projects between an op's or request's arrival and its first turn.",
        WAIT_TURNS_BOUNDS,
    ),
    "wait_s": (
        "tinsmith_project_wait_seconds",
        "Seconds between an op's or request's arrival and its first turn.",
        WAIT_S_BOUNDS,
    ),
}
"""A field of a project's report -> name and help, and bounds of what is counted together."""


def project_metrics(reports: Iterable[tuple[str, EngineReport]]) -> Iterator[Metric]:
    """Of the engines' newest reports, by base model."""
    projects = [
        ((model, name), project)
        for model, report in reports
        for name, project in report.projects.items()
    ]
    for families, described in ((CounterMetricFamily, COUNTERS), (GaugeMetricFamily, GAUGES)):
        for field, (metric, about) in described.items():
            family = families(metric, about, labels=LABELS)
            for labels, project in projects:
                family.add_metric(labels, getattr(project, field))
            yield family
    for field, (metric, about, bounds) in WAITS.items():
        histogram = HistogramMetricFamily(metric, about, labels=LABELS)
        for labels, project in projects:
            histogram.add_metric(labels, *_buckets(project, field, bounds))
        yield histogram


def _buckets(
    project: ProjectReport, field: str, bounds: Sequence[float]
) -> tuple[list[tuple[str, float]], float]:
    names = [*(str(float(bound)) for bound in bounds), "+Inf"]
    counts = accumulate(getattr(project, field))
    return list(zip(names, map(float, counts), strict=True)), getattr(project, f"{field}_sum")
