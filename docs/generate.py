"""Compute the numbers of the documentation, draw its figures, and write the pages made of them.

    python docs/generate.py               everything but the demo: a minute
    python docs/generate.py --demo        run `mailroom demo` anew first, and record it; with
                                          --browser chromium also photograph its report
    python docs/generate.py --pages       only render the pages from the recorded numbers

Everything is computed by the code that trains and triages. Tests render the pages again and
compute the cheap numbers again, so a page that no longer tells the truth fails the build.
"""

from __future__ import annotations

import argparse
import json
import platform
import tempfile
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

from generator import drawing, reference
from generator.pages import PAGES, render

DOCS = Path(__file__).parent
FIGURES = DOCS / "figures"
MECHANICS, DEMO = FIGURES / "mechanics.json", FIGURES / "demo.json"
PICTURE = DOCS / "report.png"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--demo", action="store_true", help="run `mailroom demo` and record it")
    parser.add_argument("--browser", help="a Chromium to take docs/report.png with")
    parser.add_argument("--pages", action="store_true", help="only render the pages")
    arguments = parser.parse_args()
    if arguments.demo:
        from generator.demo import photograph, record

        with tempfile.TemporaryDirectory() as scratch:
            _write(DEMO, {"made": made()} | record(Path(scratch)))
            if arguments.browser:
                photograph(Path(scratch) / "demo" / "report.html", PICTURE, arguments.browser)
    if not arguments.pages:
        _write(MECHANICS, {"made": made()} | compute_mechanics())
        draw()
    write_pages()


def compute_mechanics() -> dict[str, Any]:
    """All numbers of "How fine-tuning works" but those of a whole training."""
    from generator import mechanics
    from generator.bench import Bench

    with tempfile.TemporaryDirectory() as scratch:
        bench = Bench.open(Path(scratch))
    return {
        "shape": mechanics.shape(bench),
        "example": mechanics.example(bench),
        "start": mechanics.start(bench),
        "copies": mechanics.copies(bench),
        "adam": mechanics.adam(bench),
        "ranks": mechanics.ranks(bench),
        "reference": mechanics.reference_model(),
    }


def draw() -> None:
    for name, svg in figures().items():
        (DOCS / name).write_text(svg, encoding="utf-8")


def figures() -> dict[str, str]:
    """Every figure by its place in docs/, drawn from the recorded numbers alone."""
    mechanics, demo = recorded(MECHANICS), recorded(DEMO)
    curve = [(step, loss) for step, loss in demo["curve"]]
    drawn = {
        "mask": drawing.mask(mechanics["example"]),
        "shift": drawing.shift(mechanics["example"]),
        "product": drawing.product(mechanics["shape"]),
        "adam": drawing.steps(mechanics["adam"]),
        "kinds": drawing.kinds(demo["trained"]),
        "loss": drawing.losses(curve, "Mean loss per weighted token, by step of the demo's run"),
    }
    return {f"figures/{name}.svg": svg for name, svg in drawn.items()}


def write_pages() -> None:
    for path, text in all_pages().items():
        (DOCS / path).write_text(text, encoding="utf-8")


def all_pages() -> dict[Path, str]:
    """Every generated page, from docs/, with its text as it should be."""
    numbers = {"mechanics": recorded(MECHANICS), "demo": recorded(DEMO)}
    return {
        **{path: render(template, numbers) for template, path in PAGES.items()},
        Path("reference/cli.md"): reference.cli_page(),
        Path("reference/settings.md"): reference.settings_page(),
        Path("reference/losses.md"): reference.losses_page(),
    }


def recorded(path: Path) -> dict[str, Any]:
    return json.loads(path.read_text(encoding="utf-8"))


def made() -> dict[str, str]:
    """When and on what kind of machine."""
    import os

    return {
        "date": datetime.now(UTC).date().isoformat(),
        "machine": f"{os.cpu_count()} CPU cores, {platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        "torch": version("torch").partition("+")[0],
        "transformers": version("transformers"),
    }


def _write(path: Path, numbers: dict[str, Any]) -> None:
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(_rounded(numbers), indent=1) + "\n", encoding="utf-8")


def _rounded(value: Any) -> Any:
    """Eight significant digits: the rest differs between machines and would only be noise."""
    if isinstance(value, float):
        return float(f"{value:.8g}")
    if isinstance(value, dict):
        return {key: _rounded(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_rounded(item) for item in value]
    return value


if __name__ == "__main__":
    main()
