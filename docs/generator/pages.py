"""Pages with figures in them: a template beside this file, filled with the recorded numbers."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jinja2

TEMPLATES = Path(__file__).parent / "pages"
PAGES = {
    "how-fine-tuning-works.md.jinja": Path("explanation/how-fine-tuning-works.md"),
    "a-small-model-learns-to-triage.md.jinja": Path("tutorial/a-small-model-learns-to-triage.md"),
}
"""Template -> page, from docs/."""


def render(template: str, numbers: Mapping[str, Any]) -> str:
    """The page's text. A number that the template names and the record lacks is an error."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(TEMPLATES),
        undefined=jinja2.StrictUndefined,
        keep_trailing_newline=True,
        trim_blocks=True,
        lstrip_blocks=True,
        autoescape=False,
    )
    environment.filters |= {
        "sig": significant,
        "count": lambda value: f"{value:,}",
        "percent": lambda share, digits=0: f"{100 * share:.{digits}f} %",
        "visible": visible,
        "megabytes": lambda size: f"{size / 1e6:.1f} MB",
    }
    return environment.get_template(template).render(**numbers)


def significant(value: float, digits: int = 3) -> str:
    """The number as people write it: so many significant digits, a real minus, 0 for zero."""
    if value == 0:
        return "0"
    if 1e-3 <= abs(value) < 1e6:
        decimals = max(0, digits - 1 - _exponent(value))
        return f"{value:.{decimals}f}"
    return f"{value:.{digits - 1}e}"


def _exponent(value: float) -> int:
    return int(f"{value:e}".partition("e")[2])


def visible(token: str) -> str:
    """A token in a table's cell, in code, with its spaces and line ends to be seen."""
    shown = token.replace("\n", "\u21b5").replace(" ", "\u00b7").replace("|", "\\|")
    return f"`{shown}`"
