"""Every promise names tests, and they are there."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "explanation" / "promises.md").read_text("utf-8")
SECTIONS = dict(re.findall(r"^## (.+)\n((?:(?!^## ).*\n?)*)", PAGE, re.MULTILINE))
LAST = "What is not promised"


def test_the_page_ends_with_what_is_not_promised():
    assert list(SECTIONS)[-1] == LAST
    assert len(SECTIONS) > 5


@pytest.mark.parametrize("promise", [name for name in SECTIONS if name != LAST])
def test_a_promise_names_tests_that_exist(promise: str):
    named = re.findall(r"`((?:tinsmith/)?tests/[^`]+)`", SECTIONS[promise])
    assert named
    assert [path for path in named if not (ROOT / path).is_file()] == []
