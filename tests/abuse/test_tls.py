"""HTTPS from certificate files, with the unmodified SDK."""

from __future__ import annotations

import json
import os
import ssl
import subprocess
import sys
from collections.abc import Mapping
from datetime import timedelta
from pathlib import Path

import pytest
from abused_server import KEY, abused
from certificates import Pair, make_pair
from click.testing import CliRunner
from tinsmith.cli import main
from tinsmith.domain.errors import InvalidInputError
from tinsmith.listening.tls import TlsFiles

PROGRAM = Path(__file__).with_name("train_and_sample.py")


def run_program(url: str, key: str, trusted: Path, **environment: str) -> dict:
    """The SDK's program against this server, with one certificate that it trusts."""
    told = {"TINKER_BASE_URL": url, "TINKER_API_KEY": key, "SSL_CERT_FILE": str(trusted)}
    return json.loads(_run({**told, **environment}).stdout)


def _run(environment: Mapping[str, str]) -> subprocess.CompletedProcess[str]:
    child = subprocess.run(
        [sys.executable, str(PROGRAM)],
        env={**os.environ, "OMP_NUM_THREADS": "1", **environment},
        capture_output=True,
        text=True,
        timeout=200,
        check=False,
    )
    assert child.returncode == 0, child.stderr[-4000:]
    return child


def options(pair: Pair) -> list[str]:
    return ["--tls-cert", str(pair.cert), "--tls-key", str(pair.key)]


def test_the_sdk_trains_samples_and_downloads_over_tls(tmp_path: Path):
    pair = make_pair(tmp_path / "tls")
    with abused(tmp_path / "home", options=options(pair)) as server:
        assert server.url.startswith("https://127.0.0.1:")
        url = server.url.replace("127.0.0.1", "localhost")
        told = run_program(url, KEY, pair.cert)
    assert told["url"].startswith(f"{url}/api/v1/files/")
    assert told["downloaded_bytes"] > 0 and len(told["tokens"]) == 8


@pytest.mark.parametrize(
    ("changes", "word"),
    [
        ({"ends": -timedelta(hours=1)}, "has expired"),
        ({"begins": timedelta(hours=1)}, "is not valid before"),
        ({"passphrase": b"secret"}, "without a passphrase"),
    ],
)
def test_files_that_no_client_would_take_are_refused_at_start(
    tmp_path: Path, changes: dict, word: str
):
    pair = make_pair(tmp_path, **changes)
    assert_not_started(tmp_path, pair, word)


def test_files_that_are_no_pair_are_refused_at_start(tmp_path: Path):
    pair, other = make_pair(tmp_path / "a"), make_pair(tmp_path / "b")
    assert_not_started(tmp_path, Pair(pair.cert, other.key), "is not that of the first certificate")
    assert_not_started(tmp_path, Pair(pair.key, pair.key), "PEM certificate chain")
    assert_not_started(tmp_path, Pair(pair.cert, tmp_path / "none"), "No such file")
    alone = CliRunner().invoke(main, ["serve", "--tls-cert", str(pair.cert)])
    assert "need each other" in alone.stderr


def assert_not_started(folder: Path, pair: Pair, word: str) -> None:
    command = ["serve", "--home", str(folder / "home"), "--port", "0", *options(pair)]
    started = CliRunner().invoke(main, command)
    assert started.exit_code == 1 and word in started.stderr, started.output
    assert isinstance(started.exception, SystemExit)


def test_a_renewed_certificate_is_taken_up_and_a_broken_one_is_not(tmp_path: Path):
    pair = make_pair(tmp_path)
    files = TlsFiles(pair.cert, pair.key)
    assert not files.reload_if_changed()
    assert shown(files) == ssl.PEM_cert_to_DER_cert(pair.cert.read_text())
    make_pair(tmp_path)
    os.utime(pair.cert, ns=(1, 1))  # so that even a coarse clock tells them apart
    renewed = ssl.PEM_cert_to_DER_cert(pair.cert.read_text())
    assert files.reload_if_changed()
    assert shown(files) == renewed
    pair.key.write_text("half of a k")
    os.utime(pair.key, ns=(2, 2))
    with pytest.raises(InvalidInputError):
        files.reload_if_changed()
    assert not files.reload_if_changed()
    assert shown(files) == renewed


def test_a_certificate_that_ends_soon_is_told_of(tmp_path: Path, caplog: pytest.LogCaptureFixture):
    pair = make_pair(tmp_path, ends=timedelta(days=5))
    with caplog.at_level("WARNING", logger="tinsmith"):
        TlsFiles(pair.cert, pair.key)
    assert "certificate_ends_soon" in caplog.text


def shown(files: TlsFiles) -> bytes | None:
    """The certificate that a client gets to see, from a handshake in memory."""
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    ways = ssl.MemoryBIO(), ssl.MemoryBIO()
    client = context.wrap_bio(*ways)
    server = files.context.wrap_bio(*reversed(ways), server_side=True)
    for side in (client, server, client, server):
        try:
            side.do_handshake()
        except ssl.SSLWantReadError:
            continue
    return client.getpeercert(binary_form=True)
