"""Engine processes: one per base model, started, watched and started again.

The front meets its engines in the ledger; this module only keeps them alive and carries the
doorbell.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict
from multiprocessing import AuthenticationError
from pathlib import Path
from typing import Any

from tinsmith.config import DATABASE_VARIABLE, Config, Engine, Quotas, Recovery
from tinsmith.domain.engine_report import EngineReport, EngineState
from tinsmith.domain.records import ServedModel
from tinsmith.ledger.bell import Bell, BellListener
from tinsmith.telemetry import event, failure

RESTART_PAUSES_S = (0.5, 1.0, 2.0, 5.0, 10.0, 30.0)
STOP_PATIENCE_S = 15.0


class EngineProcess:
    """A child process that serves one base model, kept alive by a thread of its own."""

    def __init__(
        self,
        model: ServedModel,
        config: Config,
        *,
        on_settled: Callable[[Sequence[str]], None],
        on_tokens: Callable[[Sequence[Sequence[Any]]], None],
    ) -> None:
        self.model = model
        self._config = config
        self._on_settled = on_settled
        self._on_tokens = on_tokens
        self._bell: Bell | None = None
        self._report: EngineReport | None = None
        self._num_restarts = 0
        self._child: subprocess.Popen[bytes] | None = None
        self._ready = threading.Event()
        self._gave_up = threading.Event()
        self._stopping = threading.Event()
        self._thread = threading.Thread(
            target=self._keep_alive, name=f"engine {model.name}", daemon=True
        )

    @property
    def is_ready(self) -> bool:
        """Whether the model has answered a forward pass and its process lives."""
        return self._ready.is_set()

    @property
    def state(self) -> EngineState:
        """How the engine stands, as far as it has told."""
        return EngineState(self.is_ready, self._report, self._num_restarts)

    @property
    def gave_up(self) -> bool:
        """Whether the engine failed before it was ever ready, so that a restart won't help."""
        return self._gave_up.is_set()

    def start(self) -> None:
        self._thread.start()

    def ring(self) -> None:
        """Tell the engine that the ledger holds something for it."""
        bell = self._bell  # another thread may take it away between the test and the call
        if bell is not None:
            bell.ring("ring")

    def cancel(self, request_id: str) -> None:
        """Tell the engine that nobody wants this sample any more."""
        bell = self._bell
        if bell is not None:
            bell.ring("cancel", request_ids=[request_id])

    def ask_to_stop(self) -> None:
        """Let the engine finish its turn and end; `join` waits for it."""
        self._stopping.set()
        bell, child = self._bell, self._child
        if bell is not None:
            bell.ring("stop")
        elif child is not None:
            child.terminate()  # still loading: it holds nothing yet

    def join(self) -> None:
        """Wait for the end, and insist on it after a while."""
        child = self._child
        if child is not None:
            try:
                child.wait(STOP_PATIENCE_S)
            except subprocess.TimeoutExpired:
                event("engine_killed", base_model=self.model.name)
                child.kill()
                child.wait()
        self._thread.join(STOP_PATIENCE_S)

    def _keep_alive(self) -> None:
        was_ready, num_failures = False, 0
        while not self._stopping.is_set():
            started = time.monotonic()
            self._run_once()
            was_ready = was_ready or self._ready.is_set()
            self._ready.clear()
            if self._stopping.is_set():
                return
            if not was_ready:
                self._gave_up.set()
                return
            if time.monotonic() - started > 60.0:
                num_failures = 0
            pause_s = RESTART_PAUSES_S[min(num_failures, len(RESTART_PAUSES_S) - 1)]
            num_failures += 1
            self._num_restarts += 1
            event("engine_restarts", base_model=self.model.name, pause_s=pause_s)
            self._stopping.wait(pause_s)

    def _run_once(self) -> None:
        listener = BellListener()
        spec = {
            "model": asdict(self.model),
            "home": str(self._config.home.resolve()),
            "engine": asdict(self._config.engine),
            "quotas": asdict(self._config.quotas),
            "recovery": asdict(self._config.recovery),
            "log_format": self._config.log_format,
        }
        environment = {
            **os.environ,
            "TINSMITH_BELL": f"{listener.port}:{listener.key}",
            DATABASE_VARIABLE: self._config.database,
        }
        self._child = subprocess.Popen(
            [sys.executable, "-m", "tinsmith.cli", "engine", json.dumps(spec)],
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=sys.stderr.fileno(),
            start_new_session=os.name != "nt",  # Ctrl-C is for the front, which then stops us
        )
        closer = threading.Thread(
            target=_close_when_gone, args=(self._child, listener), daemon=True
        )
        closer.start()
        try:
            self._bell = _accept_engine(listener)
            self._listen(self._bell)
        except (OSError, EOFError) as error:
            if not self._stopping.is_set():
                event("engine_lost", base_model=self.model.name, why=type(error).__name__)
        except Exception as error:
            failure("engine_thread_failed", error, base_model=self.model.name)
        finally:
            self._bell = self._report = None
            listener.close()
            if not self._stopping.is_set():
                self._child.kill()
            self._child.wait()
            closer.join()

    def _listen(self, bell: Bell) -> None:
        while True:
            message = bell.listen(None)
            if message is None:
                continue
            if message["kind"] == "ready":
                self._ready.set()
                event("engine_ready", base_model=self.model.name, **message["facts"])
                bell.ring("ring")
            elif message["kind"] == "settled":
                self._on_settled(message["request_ids"])
            elif message["kind"] == "tokens":
                self._on_tokens(message["told"])
            elif message["kind"] == "report":
                self._report = EngineReport.read(message["report"])


def _accept_engine(listener: BellListener) -> Bell:
    while True:
        try:
            return listener.accept()
        except AuthenticationError:
            event("unauthenticated_connection")


def _close_when_gone(child: subprocess.Popen[bytes], listener: BellListener) -> None:
    """A child that dies before it connects must not leave `accept` waiting for ever: poke it."""
    child.wait()
    try:
        Bell.connect(listener.port, listener.key).close()
    except (OSError, EOFError, AuthenticationError):
        return


def engine_spec(text: str) -> tuple[ServedModel, Config]:
    """Read what `EngineProcess` handed over on the command line."""
    spec = json.loads(text)
    return ServedModel(**spec["model"]), Config(
        home=Path(spec["home"]),
        engine=Engine(**spec["engine"]),
        quotas=Quotas(**spec["quotas"]),
        recovery=Recovery(**spec["recovery"]),
        log_format=spec["log_format"],
    )
