"""The page of metrics names what a server tells, and nothing else."""

from __future__ import annotations

import re
from pathlib import Path

from prometheus_client import CollectorRegistry
from starlette.applications import Starlette
from tinsmith.api.disk_metrics import DiskCollector
from tinsmith.api.measured import Measured
from tinsmith.api.metrics import EngineCollector
from tinsmith.domain.engine_report import EngineReport, EngineState
from tinsmith.service.disk_use import DiskUse

PAGE = Path(__file__).parents[2] / "docs" / "reference" / "metrics.md"


def test_every_metric_has_a_row_with_its_type():
    registry = CollectorRegistry()
    registry.register(EngineCollector(lambda: {"model": EngineState(True, EngineReport())}))
    use = DiskUse(free=1, min_free=1, ledger=1, aside=1, projects=())
    registry.register(DiskCollector(lambda: use))
    Measured(Starlette(), registry=registry, routes=[])
    told = {
        family.name + ("_total" if family.type == "counter" else ""): family.type
        for family in registry.collect()
    }

    rows = re.findall(r"^\| `(\w+)` \| (\w+) \|", PAGE.read_text("utf-8"), re.MULTILINE)
    assert len(told) > 10
    assert dict(rows) == told
