"""Links between pages lead somewhere, and no page tells whose machine it was written on."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")])
FENCE = re.compile(r"^```.*?^```", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"\]\(([^)\s]+)\)")


def _ids(page: Path) -> str:
    return str(page.relative_to(ROOT))


def _anchors(page: Path) -> set[str]:
    """The anchors that GitHub gives a page's headings."""
    headings = re.findall(r"^#+ (.+)$", FENCE.sub("", page.read_text("utf-8")), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=_ids)
def test_every_relative_link_of_a_page_resolves(page: Path):
    broken = []
    for target in LINK.findall(FENCE.sub("", page.read_text("utf-8"))):
        if re.match(r"[a-z]+:", target):
            continue
        name, _, anchor = target.partition("#")
        file = (page.parent / name).resolve() if name else page
        if not file.exists() or (anchor and anchor not in _anchors(file)):
            broken.append(target)

    assert not broken


def test_the_index_of_the_documentation_lists_every_page():
    index = ROOT / "docs" / "README.md"
    linked = {(index.parent / link).resolve() for link in LINK.findall(index.read_text("utf-8"))}

    assert [
        page for page in PAGES if page.parent.parent == index.parent and page not in linked
    ] == []


@pytest.mark.parametrize(
    "file",
    sorted(
        path
        for kind in ("*.md", "*.json", "*.svg", "*.jinja", "*.py")
        for path in (ROOT / "docs").rglob(kind)
    ),
    ids=_ids,
)
def test_no_file_of_the_documentation_names_a_folder_of_somebodys_machine(file: Path):
    found = re.findall(r"(?<![\w.])/(?:work|root|home|tmp|Users)/\S*", file.read_text("utf-8"))

    assert found == []
