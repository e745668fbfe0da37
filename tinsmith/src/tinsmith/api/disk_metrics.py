"""What `/metrics` tells of the disk of the home folder."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from tinsmith.service.disk_use import DiskUse


class DiskCollector(Collector):
    def __init__(self, read: Callable[[], DiskUse]) -> None:
        """read: may block."""
        self._read = read

    def describe(self) -> list[Metric]:
        """Nothing: else the disk would be measured when this is registered."""
        return []

    def collect(self) -> Iterator[Metric]:
        use = self._read()
        yield GaugeMetricFamily(
            "tinsmith_disk_free_bytes", "Room on the disk of the home folder.", value=use.free
        )
        yield GaugeMetricFamily(
            "tinsmith_disk_min_free_bytes",
            "With less room than this no new work is taken in.",
            value=use.min_free,
        )
        kinds = GaugeMetricFamily("tinsmith_disk_used_bytes", "What takes room.", labels=["kind"])
        for kind, size in use.by_kind.items():
            kinds.add_metric([kind], size)
        yield kinds
        projects = GaugeMetricFamily(
            "tinsmith_project_stored_bytes",
            "What a project has stored, by the catalogue.",
            labels=["project", "kind"],
        )
        for share in use.projects:
            projects.add_metric([share.owner, "checkpoints"], share.checkpoints)
            projects.add_metric([share.owner, "snapshots"], share.snapshots)
        yield projects
