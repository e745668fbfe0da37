"""Generated pages and figures say what the code does today."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

DOCS = Path(__file__).parents[2] / "docs"
HINT = "stale: run `python docs/generate.py`"
NOISE = ("deviation", "gradient_deviation", "step_deviation", "smallest_gradient")
"""Rounding errors, which differ between machines; only their size is said."""


def test_every_generated_page_is_what_the_generator_writes():
    from generate import all_pages

    stale = [str(path) for path, text in all_pages().items() if (DOCS / path).read_text() != text]

    assert not stale, HINT


def test_every_figure_is_drawn_from_the_recorded_numbers():
    from generate import figures

    drawn = figures()
    stale = [name for name, svg in drawn.items() if (DOCS / name).read_text() != svg]

    assert not stale, HINT
    assert {path.name for path in (DOCS / "figures").glob("*.svg")} == {Path(n).name for n in drawn}


def test_the_recorded_numbers_are_those_that_the_code_computes():
    from generate import MECHANICS, compute_mechanics, recorded

    was, now = recorded(MECHANICS), compute_mechanics()
    was.pop("made")

    assert dict(_differences(was, now)) == {}, HINT


def test_what_the_page_claims_of_the_numbers_is_true_of_them():
    from generate import MECHANICS, recorded

    numbers = recorded(MECHANICS)
    example, copies, adam = numbers["example"], numbers["copies"], numbers["adam"]

    assert example["num_positions"] == example["num_tokens"] - 1
    assert sum(p["weight"] for p in example["positions"]) == example["num_completion"]
    assert [p["target"] for p in example["positions"][:-1]] == [
        p["input"] for p in example["positions"][1:]
    ]
    assert example["positions"][-1]["target"] == example["eos"]
    assert example["loss_sum_by_hand"] == pytest.approx(example["loss_sum"], rel=1e-6)
    assert numbers["start"]["before"]["gradient_a"] == 0
    assert numbers["start"]["before"]["gradient_b"] > 0
    assert numbers["start"]["after_one_step"]["gradient_a"] > 0
    assert copies["ratio"] == pytest.approx(copies["num_copies"], rel=1e-5)
    assert copies["gradient_deviation"] < 1e-5
    assert copies["step_deviation"] < 1e-4
    # fp32 in the engine, float64 by hand
    assert adam["deviation"] < 1e-6 * adam["learning_rate"] * len(adam["rows"]) * 10
    assert adam["share_moved_by_rate"] > 0.999
    falls = [row["promised"] for row in numbers["ranks"]]
    assert max(falls) < 1.25 * min(falls)  # "hardly depends on the rank"
    changes = [row["change"] for row in numbers["ranks"]]
    assert changes == sorted(changes, reverse=True)  # "shrinks with the rank"


def _differences(was: Any, now: Any, place: str = "") -> Iterator[tuple[str, tuple[Any, Any]]]:
    if isinstance(was, dict):
        if was.keys() != now.keys():
            yield place, (sorted(was), sorted(now))
            return
        for key in was:
            if key == "scatter":
                continue  # a picture of the same numbers
            if key in NOISE:
                if (was[key] < 1e-4) != (now[key] < 1e-4):
                    yield f"{place}.{key}", (was[key], now[key])
                continue
            yield from _differences(was[key], now[key], f"{place}.{key}")
    elif isinstance(was, list):
        if len(was) != len(now):
            yield place, (len(was), len(now))
            return
        for i, (left, right) in enumerate(zip(was, now, strict=True)):
            yield from _differences(left, right, f"{place}[{i}]")
    elif isinstance(was, float) or isinstance(now, float):
        # fp32 sums in another order, on another machine.
        if not math.isclose(was, now, rel_tol=5e-3, abs_tol=1e-6):
            yield place, (was, now)
    elif was != now:
        yield place, (was, now)
