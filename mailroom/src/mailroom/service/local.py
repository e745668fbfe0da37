"""A tinsmith of our own on this machine: started by the first command of a home, joined by later
ones, ended by the last.

    HOME/tinsmith/            the server's home; `server.json` in it says where it listens, and the
                              server holds `server.lock` for as long as it lives
    HOME/tinsmith.log         what it printed
    HOME/tinsmith.started     the pid of a server that a mailroom command started
    HOME/tinsmith.lock        held while the server is started, joined or ended
    HOME/tinsmith.users/      one locked file for each command that uses the server

A command holds the lock on its own file for as long as it lives, so a crashed one is known by a
file that nobody holds. Whether there is a server its lock tells in the same way. Process ids are no
proof: the files that hold them outlive a power cut, and the system uses the numbers again. So a
process is ended only if it is our own child, or if the lock is held, a mailroom command started the
server under this id, and it answers at its address.
"""

from __future__ import annotations

import importlib.util
import json
import os
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path

from filelock import FileLock, Timeout

from mailroom.config import served_name
from mailroom.errors import MailroomError
from mailroom.service.loopback import is_healthy

STOP_PATIENCE_S = 20.0
JOIN_PATIENCE_S = 20.0
QUIET_WAIT_S = 2.0
"""A wait for another command that is over sooner is not worth a line."""
LOG_TAIL_LINES = 12


@dataclass(frozen=True, slots=True)
class LocalServer:
    """A tinsmith that listens on this machine."""

    url: str
    pid: int
    models: tuple[str, ...]
    home: Path
    """Mailroom's, not the server's own below it."""
    child: subprocess.Popen[bytes] | None = field(default=None, compare=False, repr=False)
    """Its process, if this very command started it."""

    @property
    def log(self) -> Path:
        return self.home / "tinsmith.log"

    def check_alive(self) -> None:
        """Raises MailroomError, with the end of the server's log, if the process is gone."""
        # The lock second: a free one is held for a moment by whoever asks.
        if not (_is_alive(self.pid) and _is_served(self.home)):
            raise MailroomError(f"the local tinsmith has ended\n{_tail(self.log)}")


@contextmanager
def local_server(home: Path, base_model: str, say: Callable[[str], None]) -> Iterator[LocalServer]:
    """Use the home's tinsmith, starting it if there is none; end it if nobody else uses it.

    Args:
        base_model: a hub id, a folder, `NAME=FOLDER` or the built-in name, as `tinsmith serve`
            takes them.
        say: is told what happens, in a line.

    Raises:
        MailroomError: it cannot be started, or the running one serves other models.
    """
    home.mkdir(parents=True, exist_ok=True)
    users = home / "tinsmith.users"
    users.mkdir(exist_ok=True)
    desk = FileLock(home / "tinsmith.lock", thread_local=False)
    ticket = FileLock(users / f"{os.getpid()}-{uuid.uuid4().hex[:8]}", thread_local=False)
    server = None
    try:
        with _at_desk(desk, say):
            server = _join_or_start(home, users, base_model, say)
            ticket.acquire()
        yield server
    finally:
        # A second Ctrl-C must not leave a server behind.
        with _interrupts_held(), _at_desk(desk, say):
            ticket.release()
            Path(ticket.lock_file).unlink(missing_ok=True)
            if not _users(users):
                _end(home, server.child if server is not None else None, say)


@contextmanager
def _at_desk(desk: FileLock, say: Callable[[str], None]) -> Iterator[None]:
    """Hold the lock under which servers are started, joined and ended."""
    try:
        desk.acquire(timeout=QUIET_WAIT_S)
    except Timeout:
        say("waiting for another command, which is starting or ending the local tinsmith")
        desk.acquire()
    try:
        yield
    finally:
        desk.release()


def _join_or_start(
    home: Path, users: Path, base_model: str, say: Callable[[str], None]
) -> LocalServer:
    wanted = served_name(base_model)
    server = _running(home)
    if server is not None and wanted not in server.models:
        if _users(users) or not _is_ours(home, server.pid):
            raise MailroomError(
                f"the tinsmith of {home} serves {', '.join(server.models)} and this command needs "
                f"{wanted}. Wait until the other command is done, or give this one a home of its "
                "own: --home FOLDER"
            )
        _end(home, None, say)
        server = None
    if server is not None:
        say(f"using the local tinsmith at {server.url}, which another command started")
        return server
    return _start(home, base_model, say)


def _running(home: Path) -> LocalServer | None:
    """The home's server if there is one that answers. What a dead one left is cleared away.

    Raises:
        MailroomError: there is one that does not answer.
    """
    deadline = time.monotonic() + JOIN_PATIENCE_S
    while _is_served(home):
        server = _read(home)  # each time: it may have just been started by hand
        if server is not None and is_healthy(server.url):
            return server
        if time.monotonic() > deadline:
            where = f" at {server.url}" if server is not None else ""
            raise MailroomError(
                f"a tinsmith holds {home / 'tinsmith'} and does not answer{where}. End it and try "
                "again, or give this command a home of its own: --home FOLDER\n"
                f"{_tail(home / 'tinsmith.log')}"
            )
        time.sleep(0.2)
    _forget(home)
    return None


def _is_served(home: Path) -> bool:
    """Whether a tinsmith lives on this home: it holds its lock from its first moment to its last.

    Asking holds a free lock for a moment, so ask at the desk, or when there was a server just now.
    """
    if not (home / "tinsmith").is_dir():
        return False
    lock = FileLock(home / "tinsmith" / "server.lock", thread_local=False)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        return True
    lock.release()
    return False


def _forget(home: Path) -> None:
    (home / "tinsmith.started").unlink(missing_ok=True)
    (home / "tinsmith" / "server.json").unlink(missing_ok=True)


def _start(home: Path, base_model: str, say: Callable[[str], None]) -> LocalServer:
    if importlib.util.find_spec("tinsmith") is None:
        raise MailroomError(
            "there is no training service: set TINKER_BASE_URL and TINKER_API_KEY to use one, or "
            "install tinsmith beside mailroom to run one here"
        )
    log = home / "tinsmith.log"
    command = [sys.executable, "-m", "tinsmith.cli", "serve", "--home", str(home / "tinsmith")]
    command += ["--host", "127.0.0.1", "--port", "0", "--model", base_model]
    with log.open("wb") as output:
        child = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            # Ctrl-C is for us; others may be using the server, and we end it when all are done.
            start_new_session=os.name != "nt",
        )
    say(f"starting a local tinsmith with {served_name(base_model)} (its log: {log})")
    try:
        server = _wait_until_healthy(home, child, base_model, say)
    except BaseException:
        _terminate_child(child)
        raise
    (home / "tinsmith.started").write_text(str(server.pid))
    say(f"the local tinsmith answers at {server.url}")
    return server


def _wait_until_healthy(
    home: Path, child: subprocess.Popen[bytes], base_model: str, say: Callable[[str], None]
) -> LocalServer:
    """Wait as long as the process lives: a large model may first have to be fetched."""
    told = time.monotonic()
    while child.poll() is None:
        server = _read(home)
        # On Windows a virtual environment's python is a launcher with a process id of its own.
        is_told = server is not None and (server.pid == child.pid or os.name == "nt")
        if server is not None and is_told and is_healthy(server.url, timeout_s=30.0):
            return replace(server, child=child)
        if time.monotonic() - told > 15.0:
            told = time.monotonic()
            say(f"still waiting for {served_name(base_model)} to load")
        time.sleep(0.05)
    raise MailroomError(
        f"the local tinsmith did not start (exit code {child.returncode})\n"
        f"{_tail(home / 'tinsmith.log')}"
    )


def _read(home: Path) -> LocalServer | None:
    try:
        facts = json.loads((home / "tinsmith" / "server.json").read_bytes())
        models = tuple(str(model) for model in facts["models"])
        return LocalServer(facts["url"], int(facts["pid"]), models, home)
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _users(users: Path) -> int:
    """How many commands use the server; files of those that crashed are removed."""
    living = 0
    for path in users.iterdir():
        lock = FileLock(path, thread_local=False)
        try:
            lock.acquire(timeout=0)
        except Timeout:
            living += 1
            continue
        lock.release()
        path.unlink(missing_ok=True)
    return living


def _is_ours(home: Path, pid: int) -> bool:
    """Whether a mailroom command started this server; a person's own is left running."""
    try:
        return (home / "tinsmith.started").read_text() == str(pid)
    except OSError:
        return False


def _end(home: Path, child: subprocess.Popen[bytes] | None, say: Callable[[str], None]) -> None:
    """End the home's server if a mailroom command started it; `child` is it where that was us."""
    if child is not None and child.poll() is None:
        _terminate_child(child)
        _forget(home)
        return
    if not _is_served(home):
        _forget(home)
        return
    server = _read(home)
    if server is None or not _is_ours(home, server.pid):
        return
    if not is_healthy(server.url):
        say(f"the local tinsmith of {home} does not answer at {server.url}; it is left running")
        return
    _terminate(home, server)
    _forget(home)


def _terminate_child(child: subprocess.Popen[bytes]) -> None:
    child.terminate()
    try:
        child.wait(STOP_PATIENCE_S)
    except subprocess.TimeoutExpired:
        child.kill()
        child.wait()


def _terminate(home: Path, server: LocalServer) -> None:
    """End a server that has just answered."""
    with suppress(ProcessLookupError):
        os.kill(server.pid, signal.SIGTERM)
    deadline = time.monotonic() + STOP_PATIENCE_S
    while time.monotonic() < deadline:
        if not _is_alive(server.pid):
            return
        time.sleep(0.05)
    if _is_served(home):
        with suppress(ProcessLookupError):
            os.kill(server.pid, signal.SIGKILL if hasattr(signal, "SIGKILL") else signal.SIGTERM)


def _is_alive(pid: int) -> bool:
    """Whether the process runs. One that has ended but whose parent has not yet asked is gone."""
    with suppress(ChildProcessError, AttributeError):
        os.waitpid(pid, os.WNOHANG)  # ours: collect it
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    with suppress(OSError, IndexError):
        status = Path(f"/proc/{pid}/stat").read_text()
        return status.rpartition(")")[2].split()[0] != "Z"
    return True


@contextmanager
def _interrupts_held() -> Iterator[None]:
    try:
        before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    except ValueError:  # not the main thread: no signal reaches us here
        yield
        return
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def _tail(log: Path) -> str:
    try:
        lines = log.read_text(errors="replace").splitlines()[-LOG_TAIL_LINES:]
    except OSError:
        lines = []
    return "\n".join([f"the end of {log}:", *(f"  {line}" for line in lines)])
