"""What becomes of the unmodified SDK at a quota or on a full disk: it raises at once with the
reason, or waits and goes on by itself, and its log says why."""

from __future__ import annotations

import logging
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, closing, contextmanager
from pathlib import Path

import httpx
import pytest
import tinker
from sdk_steps import ADAM, KEY, MODEL, LiveServer, batch_of
from server_process import serving
from tinsmith.domain.projects import LOCAL_PROJECT
from tinsmith.ledger.ledger import Ledger

CONFIG = """
[service]
poll_hold_s = 0.2

[limits]
min_free_bytes = {min_free_bytes}
"""
PATIENCE_S = 120.0
LONG = tinker.SamplingParams(max_tokens=450, temperature=1.0, stop=[])
SHORT = tinker.SamplingParams(max_tokens=2, temperature=0.0, stop=[])
PROMPT = tinker.ModelInput.from_ints([1, 2, 3])
SetQuotas = Callable[..., None]


def serving_with(
    home: Path, model_directory: Path, *, min_free_bytes: int = 0
) -> AbstractContextManager[LiveServer]:
    home.mkdir(exist_ok=True)
    config = home / "settings.toml"
    config.write_text(CONFIG.format(min_free_bytes=min_free_bytes))
    return serving(home, model_directory, MODEL, options=("--config", str(config)))


@pytest.fixture(scope="module")
def server(model_directory: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveServer]:
    with serving_with(tmp_path_factory.mktemp("quotas"), model_directory) as server:
        yield server


@pytest.fixture
def set_quotas(server: LiveServer) -> Iterator[SetQuotas]:
    """Felt by all requests after it has returned; taken back in the end."""
    with closing(Ledger.open(server.home / "ledger.db")) as ledger:
        named: set[str] = set()

        def change(**quotas: float | None) -> None:
            named.update(quotas)
            ledger.change_project(LOCAL_PROJECT, quotas=quotas)
            time.sleep(1.1)  # the server remembers the old ones for a second

        yield change
        change(**dict.fromkeys(named))


@pytest.fixture
def client(server: LiveServer) -> Iterator[tinker.ServiceClient]:
    client = tinker.ServiceClient(base_url=server.url, api_key=KEY)
    yield client
    client.close("success").result()


def num_answers(server: LiveServer, call: str, status: int) -> float:
    text = httpx.get(f"{server.url}/metrics", timeout=30).text
    name = re.escape(f'tinsmith_http_requests_total{{route="/api/v1/{call}",status="{status}"}} ')
    found = re.search(f"^{name}(.*)$", text, re.MULTILINE)
    return float(found[1]) if found else 0.0


def wait_until(is_so: Callable[[], object]) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while not is_so():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def reasons(caplog: pytest.LogCaptureFixture, start: str) -> list[str]:
    lines = [record.getMessage() for record in caplog.records]
    return [line for line in lines if line.startswith(start)]


def test_a_rank_above_the_quota_is_raised_at_once_with_the_reason(server, set_quotas, client):
    set_quotas(rank=8)
    with pytest.raises(tinker.BadRequestError, match=r"rank 16 is above .*quota: rank 8"):
        client.create_lora_training_client(MODEL, rank=16).result()
    assert num_answers(server, "create_model", 400) == 1  # it was not asked again
    assert client.create_lora_training_client(MODEL, rank=8).result()


def test_too_large_a_batch_fails_and_the_run_goes_on(set_quotas, client):
    run = client.create_lora_training_client(MODEL, rank=4).result()
    set_quotas(request_datums=2, sequence_tokens=20)
    with pytest.raises(tinker.RequestFailedError, match="request_datums 2"):
        run.forward(batch_of(3), "cross_entropy").result()
    with pytest.raises(tinker.RequestFailedError, match="sequence_tokens 20"):
        run.forward(batch_of(1, length=30), "cross_entropy").result()
    assert run.forward_backward(batch_of(2), "cross_entropy").result()
    assert run.optim_step(ADAM).result()
    sampler = client.create_sampling_client(base_model=MODEL).result()
    with pytest.raises(tinker.BadRequestError, match="sequence_tokens 20"):
        sampler.sample(PROMPT, 1, LONG).result()


def test_training_waits_for_tokens_and_succeeds(server, set_quotas, client):
    run = client.create_lora_training_client(MODEL, rank=4).result()
    set_quotas(tokens_per_minute=600)
    waited_before = num_answers(server, "forward_backward", 429)

    futures = [run.forward_backward(batch_of(4, length=161), "cross_entropy") for _ in range(2)]
    for future in futures:  # 640 tokens each: the second waits until the debt of the first is paid
        assert future.result().metrics
    assert run.optim_step(ADAM).result()

    assert num_answers(server, "forward_backward", 429) > waited_before


def test_sampling_waits_for_tokens_and_its_log_says_why(server, set_quotas, client, caplog):
    sampler = client.create_sampling_client(base_model=MODEL).result()
    set_quotas(tokens_per_minute=6000)
    caplog.set_level(logging.WARNING, "tinker")

    first = sampler.sample(PROMPT, 64, LONG)
    wait_until(lambda: num_answers(server, "asample", 200) >= 1)
    second = sampler.sample(PROMPT, 1, SHORT).future()
    assert len(first.result().sequences) == 64
    (line,) = reasons(caplog, "Sampling is paused")
    assert "tokens_per_minute 6000" in line
    assert not second.done()
    set_quotas(tokens_per_minute=None)
    assert len(second.result().sequences[0].tokens) == 2


def test_a_training_clients_log_says_why_when_the_pause_has_lasted(
    set_quotas, client, caplog, monkeypatch
):
    monkeypatch.setattr("tinker.lib.queue_state_logger.PAUSE_GRACE_PERIOD", 0)  # of 15 minutes
    run = client.create_lora_training_client(MODEL, rank=4).result()
    set_quotas(tokens_per_minute=20000)
    caplog.set_level(logging.WARNING, "tinker")

    first = run.forward_backward(batch_of(50, length=500), "cross_entropy")
    second = run.forward_backward(batch_of(1), "cross_entropy").future()
    assert first.result().metrics
    (line,) = reasons(caplog, "Training for")
    assert "is paused" in line
    assert "tokens_per_minute 20000" in line
    assert not second.done()
    set_quotas(tokens_per_minute=None)
    assert second.result().metrics


def test_openais_clients_are_told_when_to_come_again(server, set_quotas):
    set_quotas(tokens_per_minute=20)

    def complete() -> httpx.Response:
        return httpx.post(
            f"{server.url}/v1/completions",
            json={"model": MODEL, "prompt": "abc", "max_tokens": 60},
            headers={"Authorization": f"Bearer {KEY}"},
            timeout=PATIENCE_S,
        )

    assert complete().status_code == 200
    refused = complete()
    assert refused.status_code == 429
    assert 1 <= int(refused.headers["Retry-After"]) <= 60
    assert refused.json()["error"]["type"] == "rate_limit_error"
    assert "tokens_per_minute 20" in refused.json()["error"]["message"]


@contextmanager
def small_disk(folder: Path, num_bytes: int) -> Iterator[Path]:
    """A file system of its own, which only root can make."""
    if not hasattr(os, "geteuid") or os.geteuid() != 0 or sys.platform != "linux":
        pytest.skip("only root can make a small file system")
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", f"size={num_bytes}", "tmpfs", str(folder)]
    if subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("a small file system cannot be made here")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


def test_a_nearly_full_disk_stops_intake_and_it_goes_on_by_itself(
    model_directory: Path, tmp_path: Path, caplog
):
    with (
        small_disk(tmp_path / "disk", 96 * 2**20) as disk,
        serving_with(disk / "home", model_directory, min_free_bytes=32 * 2**20) as server,
    ):
        client = tinker.ServiceClient(base_url=server.url, api_key=KEY)
        run = client.create_lora_training_client(MODEL, rank=4).result()
        sampler = client.create_sampling_client(base_model=MODEL).result()
        path = run.save_state("before").result().path
        caplog.set_level(logging.WARNING, "tinker")
        taken_in = sampler.sample(PROMPT, 64, LONG)
        wait_until(lambda: num_answers(server, "asample", 200) >= 1)

        ballast = disk / "ballast"
        leaves_little = shutil.disk_usage(disk).free - 16 * 2**20
        with ballast.open("wb") as file:
            os.posix_fallocate(file.fileno(), 0, leaves_little)
        time.sleep(1.1)  # it is looked at once a second
        step = run.forward_backward(batch_of(2), "cross_entropy").future()
        sample = sampler.sample(PROMPT, 1, SHORT).future()
        wait_until(lambda: num_answers(server, "forward_backward", 429) >= 1)
        wait_until(lambda: num_answers(server, "asample", 429) >= 1)

        assert len(taken_in.result().sequences) == 64
        (line,) = reasons(caplog, "Sampling is paused")
        assert "disk is nearly full" in line
        rest = tinker.RestClient(base_url=server.url, api_key=KEY)
        assert rest.list_user_checkpoints().result().checkpoints
        rest.delete_checkpoint_from_tinker_path(path).result()
        assert not (step.done() or sample.done())

        ballast.unlink()
        assert step.result().metrics
        assert sample.result().sequences
        assert run.optim_step(ADAM).result()
        told = re.findall(r"intake_\w+", server.log.read_text())
        assert told == ["intake_stopped", "intake_goes_on"]
        client.close("success").result()
