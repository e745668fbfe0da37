"""Servers that die, and come back to the same home and port."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from killable_server import MakeServer, servers_below


@pytest.fixture
def make_server(tmp_path: Path) -> Iterator[MakeServer]:
    with servers_below(tmp_path) as make:
        yield make


@pytest.fixture(scope="session")
def faults_library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """faults.c, compiled for LD_PRELOAD."""
    compiler = shutil.which("cc") or shutil.which("gcc")
    if not sys.platform.startswith("linux") or compiler is None:
        why = "faults are injected through LD_PRELOAD, which needs Linux and a C compiler"
        if os.environ.get("TINSMITH_TESTS_SKIP_NOTHING"):
            pytest.fail(f"{why}, and TINSMITH_TESTS_SKIP_NOTHING is set")
        pytest.skip(why)
    library = tmp_path_factory.mktemp("faults") / "faults.so"
    source = Path(__file__).with_name("faults.c")
    flags = ["-O2", "-Wall", "-Wextra", "-shared", "-fPIC", "-D_LARGEFILE64_SOURCE"]
    subprocess.run([compiler, *flags, "-o", str(library), str(source), "-ldl"], check=True)
    return library
