"""mailroom on a real tinsmith with the built-in base model."""

from __future__ import annotations

import gc
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from mailroom.corpus.build import build
from mailroom.corpus.corpus import Corpus
from mailroom.service.connect import LOCAL_API_KEY, Service
from mailroom.service.local import local_server
from mailroom.service.tokenizers import use_hub_facade
from mailroom.taxonomy import Taxonomy

BASE_MODEL = "tinsmith/tiny"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The SDK leaves its sockets to the garbage collector, which warns of each."""
    for item in items:
        if item.path.is_relative_to(Path(__file__).parent):
            item.add_marker(pytest.mark.filterwarnings("ignore:unclosed:ResourceWarning"))
            item.add_marker(
                pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
            )


@dataclass(frozen=True, slots=True)
class Ended:
    """A command that has ended."""

    code: int
    out: str
    err: str

    @property
    def document(self) -> dict:
        """What it printed, which must be one JSON document and nothing else."""
        return json.loads(self.out)


@pytest.fixture(scope="session")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("mailroom-home")


@pytest.fixture(scope="session", autouse=True)
def quiet_environment(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """One thread for each process, a hub cache of our own, and everything put back afterwards."""
    before = dict(os.environ)
    os.environ |= {
        "OMP_NUM_THREADS": "1",
        "HF_HOME": str(tmp_path_factory.mktemp("hub")),
        "TINKER_TELEMETRY": "0",
    }
    for name in ("TINKER_BASE_URL", "TINKER_API_KEY", "MAILROOM_HOME"):
        os.environ.pop(name, None)
    yield
    gc.collect()  # what the SDK left open warns here, not in a later test of another folder
    os.environ.clear()
    os.environ |= before


@pytest.fixture(autouse=True)
def collected_here() -> Iterator[None]:
    """Sockets that the SDK dropped in a test warn in that test, not in one of another folder."""
    yield
    gc.collect()


@pytest.fixture(scope="session")
def service(home: Path) -> Iterator[Service]:
    """A local tinsmith that all tests of this folder share."""
    from huggingface_hub import constants

    endpoints = constants.ENDPOINT, constants.HUGGINGFACE_CO_URL_TEMPLATE
    with local_server(home, BASE_MODEL, lambda line: None) as server:
        use_hub_facade(server.url, BASE_MODEL)
        yield Service(server.url, LOCAL_API_KEY, server)
    constants.ENDPOINT, constants.HUGGINGFACE_CO_URL_TEMPLATE = endpoints


@pytest.fixture(scope="session")
def mailroom(service: Service, home: Path) -> Callable[..., Ended]:
    """Runs a mailroom command in a process of its own, which joins the shared server."""

    def run(*arguments: str, stdin: bytes = b"", **environment: str) -> Ended:
        done = subprocess.run(
            [sys.executable, "-m", "mailroom.cli.main", *arguments],
            input=stdin,
            capture_output=True,
            check=False,
            timeout=240,
            env={**os.environ, "MAILROOM_HOME": str(home), **environment},
        )
        return Ended(done.returncode, done.stdout.decode(), done.stderr.decode())

    return run


@pytest.fixture(scope="session")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Corpus:
    folder = tmp_path_factory.mktemp("data") / "corpus"
    build("builtin", folder, taxonomy=Taxonomy.load("default"))
    return Corpus.load(folder)
