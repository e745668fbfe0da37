"""The scripts in examples/, as a newcomer runs them: against a live server, on real exports."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import pytest
from tinsmith.base_models import BUILTIN_DIRECTORY, BUILTIN_NAME

ROOT = Path(__file__).parents[2]
EXAMPLES = ROOT / "examples"
PATIENCE_S = 240.0
NUM_STEPS = 80
"""Enough that the answers have begun to change; the scripts need not be good, only agree."""

MAIL = """\
From: Parcel desk <desk@parcels.example>
Subject: Your parcel is on its way
Message-ID: <1@parcels.example>

Hello, your order 12-34567 was shipped today and will be delivered on the 24th.
"""


@dataclass(frozen=True, slots=True)
class Trained:
    """What `train_by_hand.py` printed, and what `mailroom export --merged` made of it."""

    printed: list[str]
    model: str
    adapter: Path
    environment: Mapping[str, str]


@pytest.fixture(scope="module")
def environment(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Mapping[str, str]]:
    """The variables that lead a program to a tinsmith on a free port with the built-in model."""
    home = tmp_path_factory.mktemp("tinsmith")
    plain = {**os.environ, "OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false"}
    command = [sys.executable, "-m", "tinsmith.cli", "serve", "--home", str(home), "--port", "0"]
    with (home / "log").open("wb") as log:
        server = subprocess.Popen(command, stdout=log, stderr=log, env=plain)
    try:
        url = _healthy_url(server, home)
        yield {
            **plain,
            "TINKER_BASE_URL": url,
            "TINKER_API_KEY": "tml-local",
            "HF_ENDPOINT": f"{url}/hub",
            "HF_HOME": str(home / "hub-cache"),
        }
    finally:
        server.send_signal(signal.SIGTERM)
        try:
            server.wait(30)
        except subprocess.TimeoutExpired:
            server.kill()
            server.wait()


def _healthy_url(server: subprocess.Popen[bytes], home: Path) -> str:
    deadline = time.monotonic() + PATIENCE_S
    while time.monotonic() < deadline and server.poll() is None:
        try:
            url = json.loads((home / "server.json").read_text())["url"]
            with urllib.request.urlopen(f"{url}/api/v1/healthz", timeout=5):
                return url
        except (OSError, ValueError):
            time.sleep(0.1)
    raise AssertionError(f"no healthy server:\n{(home / 'log').read_text()[-3000:]}")


@pytest.fixture(scope="module")
def trained(environment: Mapping[str, str], tmp_path_factory: pytest.TempPathFactory) -> Trained:
    place = tmp_path_factory.mktemp("runs")
    _run(environment, "-m", "mailroom.cli.main", "build", "--data", "builtin", "--out", place / "c")
    printed = _run(
        environment,
        EXAMPLES / "train_by_hand.py",
        BUILTIN_NAME,
        place / "c",
        "--steps",
        NUM_STEPS,
    ).splitlines()
    model, adapter = printed[-1], place / "adapter"
    options = ("--model", model, "--out", adapter, "--base-model", BUILTIN_DIRECTORY, "--merged")
    _run(environment, "-m", "mailroom.cli.main", "export", *options)
    return Trained(printed, model, adapter, environment)


def _run(environment: Mapping[str, str], *arguments: object) -> str:
    command = [sys.executable, *map(str, arguments)]
    for _ in range(2):
        done = subprocess.run(
            command,
            capture_output=True,
            text=True,
            env=dict(environment),
            timeout=PATIENCE_S,
            check=False,
        )
        # Seen once with tinker 0.38.0 on a loaded machine: a background thread of the SDK was cut
        # off as the interpreter ended, after everything had been printed. Worth one more try.
        if done.returncode != -signal.SIGABRT:
            break
    assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
    return done.stdout


def test_the_loop_by_hand_learns_and_prints_a_model(trained: Trained):
    losses = [float(line.split()[2]) for line in trained.printed[:-1]]

    assert len(losses) == NUM_STEPS
    assert sum(losses[-4:]) < 0.5 * sum(losses[:4])
    assert trained.model.startswith("tinker://")
    assert trained.model.endswith("/sampler_weights/by-hand")


def test_the_three_ways_to_use_an_adapter_give_the_same_text(trained: Trained, tmp_path: Path):
    mail = tmp_path / "message.eml"
    mail.write_text(MAIL)
    adapter = trained.adapter

    ways = (
        ("sample_with_sdk.py", (trained.model,)),
        ("load_with_peft.py", (BUILTIN_DIRECTORY, adapter)),
        ("run_merged_model.py", (adapter / "merged",)),
    )
    with ThreadPoolExecutor() as pool:  # most of their time is importing
        started = [
            pool.submit(_run, trained.environment, EXAMPLES / script, *arguments, mail)
            for script, arguments in ways
        ]
    sdk, peft, merged = (one.result() for one in started)

    assert sdk.startswith("Step 1: ")  # the base model alone would not
    assert peft == sdk
    assert merged == sdk


@pytest.mark.parametrize("script", sorted(EXAMPLES.glob("*.py")), ids=lambda path: path.name)
def test_an_example_is_short_and_flat(script: Path):
    lines = script.read_text().splitlines()

    assert len(lines) <= 60
    assert not any(line.startswith(("def ", "class ", "async ")) for line in lines)
