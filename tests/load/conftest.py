"""Servers that many clients use at once."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from killable_server import MakeServer, servers_below


@pytest.fixture
def make_server(tmp_path: Path) -> Iterator[MakeServer]:
    with servers_below(tmp_path) as make:
        yield make
