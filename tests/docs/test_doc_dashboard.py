"""The dashboard that we ship asks for what a server tells, and Grafana can draw it."""

from __future__ import annotations

import itertools
import json
import re
from pathlib import Path
from typing import Any

import pytest

DOCS = Path(__file__).parents[2] / "docs"
DASHBOARD: dict[str, Any] = json.loads((DOCS / "how-to/grafana-dashboard.json").read_text("utf-8"))
PANELS = DASHBOARD["panels"]
QUERIES = [target["expr"] for panel in PANELS for target in panel.get("targets", ())]
ALERTS = re.findall(r"expr: (.+)", (DOCS / "how-to/watch-a-server.md").read_text("utf-8"))


def series() -> set[str]:
    """The names under which Prometheus keeps what the page of metrics lists; a test of its own
    holds that to the code."""
    page = (DOCS / "reference/metrics.md").read_text("utf-8")
    rows = re.findall(r"^\| `(\w+)` \| (\w+) \|", page, re.MULTILINE)
    endings = {"histogram": ("_bucket", "_sum", "_count")}
    return {name + ending for name, kind in rows for ending in endings.get(kind, ("",))}


@pytest.mark.parametrize("query", [*QUERIES, *ALERTS])
def test_a_query_asks_for_what_there_is(query: str):
    asked = set(re.findall(r"\btinsmith_\w+", query))
    assert asked <= series()
    assert asked or "process_resident_memory_bytes" in query
    for opening, closing in ("()", "[]", "{}"):
        assert query.count(opening) == query.count(closing)


def test_variables_that_are_used_are_there():
    variables = {variable["name"] for variable in DASHBOARD["templating"]["list"]}
    text = json.dumps([PANELS, DASHBOARD["templating"]])
    used = set(re.findall(r"\$\{?([a-z]\w*)", text))
    assert used == variables


def test_every_panel_has_its_place_and_something_to_draw():
    assert DASHBOARD["id"] is None  # Grafana gives one
    ids = [panel["id"] for panel in PANELS]
    assert len(set(ids)) == len(ids)
    taken: set[tuple[int, int]] = set()
    for panel in PANELS:
        at = panel["gridPos"]
        assert at["x"] + at["w"] <= 24
        across, down = range(at["x"], at["x"] + at["w"]), range(at["y"], at["y"] + at["h"])
        cells = set(itertools.product(across, down))
        assert not cells & taken, panel["title"]
        taken |= cells
        if panel["type"] != "row":
            assert panel["type"] in ("timeseries", "stat")
            names = [target["refId"] for target in panel["targets"]]
            assert names and len(set(names)) == len(names)
            assert panel["fieldConfig"]["defaults"]["unit"]
