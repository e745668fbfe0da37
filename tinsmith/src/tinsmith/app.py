"""The composition root: reads the configuration, builds the rooms and hands them to each other.

The front (this process) and the engines (its children) share the ledger and nothing else.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import os
import signal
import socket
import sys
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path
from types import FrameType

from filelock import FileLock, Timeout

from tinsmith import tracing
from tinsmith.api.app import create_app
from tinsmith.base_models import BUILTIN_NAME, resolve
from tinsmith.checkpoints.store import CheckpointStore
from tinsmith.config import Config
from tinsmith.domain.engine_report import EngineState
from tinsmith.domain.errors import InvalidInputError, StorageError
from tinsmith.domain.records import ServedModel
from tinsmith.engines import EngineProcess
from tinsmith.ledger.ledger import Ledger
from tinsmith.listening.server import HttpServer
from tinsmith.listening.tls import TlsFiles
from tinsmith.nn.losses import LOSSES
from tinsmith.service.service import Service
from tinsmith.telemetry import event, failure

SWEEP_EVERY_S = 60.0
SERVER_FILE = "server.json"


def serve_until_stopped(config: Config, *, as_json: bool = False) -> int:
    """Run the server until SIGINT or SIGTERM; returns the exit code.

    When the models answer, its address goes to standard output: a line, or with `as_json` one
    document {"url", "pid", "models"}.

    Raises:
        InvalidInputError: a setting that can't work, such as an unknown model or a certificate
            that has expired.
        StorageError: the home folder can't be used, or another server uses it.
    """
    trusted = config.engine.trust_remote_code
    models = [resolve(choice, trusted) for choice in config.models or (BUILTIN_NAME,)]
    names = [model.name for model in models]
    if len(set(names)) != len(names):
        raise InvalidInputError(f"two models with one name: {', '.join(names)}")
    if unknown := {*trusted} - {*names}:
        raise InvalidInputError(
            f"--trust-remote-code names {min(unknown)}, which is none of the models to serve: "
            + ", ".join(names)
        )
    http = config.http
    tls = TlsFiles(Path(http.tls_cert), Path(http.tls_key)) if http.tls_cert else None
    with _home_lock(config.home):
        _check_host(config)
        with _listen(config.host, config.port) as listening:
            server = _Server(config, models, listening, tls, as_json)
            return asyncio.run(server.run())


class _Server:
    def __init__(
        self,
        config: Config,
        models: Sequence[ServedModel],
        listening: socket.socket,
        tls: TlsFiles | None,
        as_json: bool,
    ) -> None:
        self._config = config
        self._tls = tls
        self._as_json = as_json
        self._listening = listening
        self._ledger = Ledger.open(config.ledger)
        self._ledger.traces = tracing.start("front")
        store = CheckpointStore(config.home / "checkpoints")
        for model in models:
            # An engine may outlive a killed front by a moment. From here on it records nothing, so
            # that what it has just written is either in the catalogue or nobody's.
            self._ledger.acquire_lease(model.name, f"front, pid {os.getpid()}")
        store.sweep(lambda address: self._ledger.checkpoint(address) is not None)
        self._service = Service.build(
            self._ledger,
            store,
            models,
            losses=list(LOSSES.values()),
            config=config,
            ring=self._ring,
            tell_cancelled=self._tell_cancelled,
        )
        self._engines = {
            model.name: EngineProcess(
                model,
                config,
                on_settled=self._service.wake,
                on_tokens=self._service.streams.deliver,
            )
            for model in models
        }
        app = create_app(
            self._service,
            is_healthy=self._is_healthy,
            engines=self._states,
            limits=config.limits,
            http=config.http,
            loopback=not config.http.public_url,
            poll_hold_s=config.service.poll_hold_s,
            cors_origins=config.service.cors_origins,
        )
        self._http = HttpServer(app, config.http, tls and tls.context)

    async def run(self) -> int:
        for stop in (signal.SIGINT, signal.SIGTERM):
            signal.signal(stop, self._stop)
        for engine in self._engines.values():
            engine.start()
        watching = asyncio.create_task(self._watch())
        server_file = self._config.home / SERVER_FILE
        try:
            self._announce(server_file)
            await self._http.serve(sockets=[self._listening])
        finally:
            watching.cancel()
            server_file.unlink(missing_ok=True)
            for engine in self._engines.values():
                engine.ask_to_stop()
            for engine in self._engines.values():
                await asyncio.to_thread(engine.join)
            self._service.close()
            self._ledger.close()
            if self._ledger.traces is not None:
                self._ledger.traces.close()
        return 1 if any(engine.gave_up for engine in self._engines.values()) else 0

    def _tell_cancelled(self, base_model: str, request_id: str) -> None:
        if base_model in self._engines:
            self._engines[base_model].cancel(request_id)

    def _ring(self, base_model: str) -> None:
        self._engines[base_model].ring()

    def _is_healthy(self) -> bool:
        return all(engine.is_ready for engine in self._engines.values())

    def _states(self) -> dict[str, EngineState]:
        return {name: engine.state for name, engine in self._engines.items()}

    def _stop(self, number: int, frame: FrameType | None) -> None:
        self._http.should_exit = True

    async def _watch(self) -> None:
        """Say when the models answer, end if one never will, and tidy up now and then."""
        while not self._is_healthy():
            for engine in self._engines.values():
                if engine.gave_up:
                    print(f"tinsmith: {engine.model.name} could not be loaded", file=sys.stderr)
                    self._http.should_exit = True
                    return
            await asyncio.sleep(0.05)
        ready = json.dumps(self._about()) if self._as_json else f"tinsmith is ready on {self._url}"
        print(ready, flush=True)
        while True:
            await asyncio.sleep(SWEEP_EVERY_S)
            self._renew_certificate()
            try:
                swept = await asyncio.to_thread(self._service.retention.sweep)
                await asyncio.to_thread(self._service.audit.sweep)
            except Exception as error:  # the edge of a background task: it must go on
                failure("sweep_failed", error)
            else:
                if swept.sessions_ended or swept.checkpoints_deleted:
                    event(
                        "swept",
                        sessions=swept.sessions_ended,
                        checkpoints=swept.checkpoints_deleted,
                    )

    def _renew_certificate(self) -> None:
        try:
            if self._tls is not None and self._tls.reload_if_changed():
                event("certificate_renewed")
        except InvalidInputError as error:  # connections go on with the old one
            event("certificate_unusable", level=logging.WARNING, why=error)

    @property
    def _url(self) -> str:
        host, port = self._listening.getsockname()[:2]
        scheme = "https" if self._tls else "http"
        return f"{scheme}://[{host}]:{port}" if ":" in host else f"{scheme}://{host}:{port}"

    def _about(self) -> dict[str, object]:
        return {"url": self._url, "pid": os.getpid(), "models": list(self._engines)}

    def _announce(self, server_file: Path) -> None:
        """Say on disk and on standard error where we are, before the models are loaded."""
        fresh = server_file.with_suffix(".new")
        fresh.write_text(json.dumps(self._about()))
        fresh.replace(server_file)
        names = ", ".join(self._engines)
        print(f"tinsmith loads {names}; {self._url}", file=sys.stderr, flush=True)


def _check_host(config: Config) -> None:
    """Beyond this machine, nobody is served without a key. Raises InvalidInputError."""
    if not config.is_open_to_others:
        return
    ledger = Ledger.open(config.ledger)
    try:
        has_key = any(key.is_good_at(datetime.now(UTC)) for key in ledger.api_keys())
    finally:
        ledger.close()
    if not has_key:
        url = config.http.public_url
        how = f"--public-url {url}" if url else f"--host {config.host}"
        raise InvalidInputError(
            f"{how} would be open to other machines, and there is no API key yet: "
            f"make one with `tinsmith keys create --home {config.home}`, or use 127.0.0.1"
        )


@contextlib.contextmanager
def _home_lock(home: Path) -> Iterator[None]:
    """One server per home folder."""
    try:
        home.mkdir(parents=True, exist_ok=True)
        lock = FileLock(home / "server.lock")
        lock.acquire(timeout=0)
    except Timeout:
        raise StorageError(
            f"another tinsmith already serves from {home}; stop it, or choose another --home"
        ) from None
    except OSError as error:
        raise StorageError(f"cannot use {home} as home folder: {error}") from error
    with lock:
        yield


@contextlib.contextmanager
def _listen(host: str, port: int) -> Iterator[socket.socket]:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    # asyncio sends answers at once only on sockets that say they are TCP: else each waits 40 ms.
    with socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP) as listening:
        if os.name != "nt":
            listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listening.bind((host, port))
        except OSError as error:
            raise InvalidInputError(
                f"cannot listen on {host}:{port}: {error.strerror}. "
                "Choose another --port; 0 picks a free one."
            ) from error
        listening.listen(2048)
        yield listening
