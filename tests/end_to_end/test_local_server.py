"""One tinsmith for all commands of a home: started by the first, joined, ended by the last."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from filelock import FileLock
from mailroom.errors import MailroomError
from mailroom.service.connect import LOCAL_API_KEY, Service, open_service
from mailroom.service.local import local_server
from mailroom.service.loopback import is_healthy

BASE_MODEL = "tinsmith/tiny"
HOLDER = """
import sys, time
from pathlib import Path
from mailroom.service.local import local_server
with local_server(Path(sys.argv[1]), "tinsmith/tiny", lambda line: None) as server:
    print(server.url, flush=True)
    sys.stdin.read()
"""


def hold(home: Path) -> tuple[subprocess.Popen, str]:
    """Another process that uses the home's server until its standard input ends."""
    process = subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(home)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    return process, process.stdout.readline().strip()


def test_the_second_joins_the_first_and_the_last_one_ends_it(tmp_path):
    said: list[str] = []

    with local_server(tmp_path, BASE_MODEL, said.append) as server:
        other, url = hold(tmp_path)
        assert url == server.url and server.models == (BASE_MODEL,)
        assert "starting a local tinsmith" in said[0] and server.url in said[-1]
    assert is_healthy(server.url), "the other command still uses it"

    with (
        pytest.raises(MailroomError, match="--home"),
        local_server(tmp_path, "other/model", said.append),
    ):
        pytest.fail("the server has no such model")

    other.communicate("")
    assert not is_healthy(server.url)
    with pytest.raises(MailroomError, match="has ended"):
        server.check_alive()
    assert not list((tmp_path / "tinsmith.users").iterdir())


def test_a_server_left_by_a_killed_command_is_used_and_then_ended(tmp_path):
    other, url = hold(tmp_path)
    other.send_signal(signal.SIGKILL)
    other.communicate()
    assert is_healthy(url)

    said: list[str] = []
    with local_server(tmp_path, BASE_MODEL, said.append) as server:
        assert server.url == url
        assert len(said) == 1 and "another command started" in said[0]

    assert not is_healthy(url)


def test_interrupting_a_command_ends_its_server(tmp_path):
    other, url = hold(tmp_path)

    other.send_signal(signal.SIGINT)
    other.communicate()

    assert url and not is_healthy(url)


def test_a_server_that_dies_is_told_with_the_end_of_its_log(tmp_path):
    with local_server(tmp_path, BASE_MODEL, lambda line: None) as server:
        service = Service(server.url, LOCAL_API_KEY, server)
        promise = service.rest().get_server_capabilities()
        assert service.wait(promise).supported_models
        os.kill(server.pid, signal.SIGKILL)
        with pytest.raises(MailroomError, match=r"(?s)has ended.*tinsmith\.log.*tinsmith is ready"):
            service.wait(service.rest().get_server_capabilities())


def test_a_server_that_cannot_start_shows_why(tmp_path):
    started = time.monotonic()

    with (
        pytest.raises(MailroomError, match=r"(?s)did not start.*holds no model"),
        local_server(tmp_path, f"local/x={tmp_path / 'nothing'}", lambda line: None),
    ):
        pytest.fail("there is no such model")

    assert time.monotonic() - started < 60


def test_files_of_a_server_that_is_gone_are_cleared_and_their_process_id_is_left_alone(tmp_path):
    # As after a power cut: the system has given the old process id to something else.
    with subprocess.Popen(["sleep", "120"]) as unrelated:
        (tmp_path / "tinsmith").mkdir()
        (tmp_path / "tinsmith" / "server.lock").touch()
        (tmp_path / "tinsmith" / "server.json").write_text(
            json.dumps({"url": "http://127.0.0.1:9", "pid": unrelated.pid, "models": ["other/one"]})
        )
        (tmp_path / "tinsmith.started").write_text(str(unrelated.pid))

        with local_server(tmp_path, BASE_MODEL, lambda line: None) as server:
            assert server.pid != unrelated.pid and is_healthy(server.url)

        assert unrelated.poll() is None and not is_healthy(server.url)
        assert not (tmp_path / "tinsmith" / "server.json").exists()
        unrelated.kill()


def test_a_command_that_has_to_wait_for_another_says_so(tmp_path):
    said: list[str] = []
    held = threading.Event()

    def another() -> None:
        with FileLock(tmp_path / "tinsmith.lock"):
            held.set()
            time.sleep(2.5)

    threading.Thread(target=another).start()
    held.wait()

    with (
        pytest.raises(MailroomError, match="did not start"),
        local_server(tmp_path, f"local/x={tmp_path / 'nothing'}", said.append),
    ):
        pytest.fail("there is no such model")

    assert "waiting for another command" in said[0] and "starting" in said[1]


def test_the_service_of_the_environment_goes_before_a_local_one(service, tmp_path, monkeypatch):
    monkeypatch.setenv("TINKER_BASE_URL", service.url + "/")
    monkeypatch.setenv("TINKER_API_KEY", "tml-mine")

    with open_service(tmp_path, BASE_MODEL, pytest.fail) as found:
        assert (found.url, found.api_key, found.local) == (service.url, "tml-mine", None)
        assert BASE_MODEL in found.base_model_names()

    assert not list(tmp_path.iterdir())
