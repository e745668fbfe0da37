"""uvicorn, set up for strangers."""

from __future__ import annotations

import contextlib
import os
import ssl
from collections.abc import Iterator
from dataclasses import replace

import uvicorn
from starlette.types import ASGIApp

from tinsmith.config import Http
from tinsmith.listening.connections import SPARE_CONNECTIONS, BoundedConnection

OTHER_FILES = 256
"""Descriptors for everything but connections: ledger, checkpoints, engines."""


class HttpServer(uvicorn.Server):
    """uvicorn without its own signal handlers, which would end us before the engines are told."""

    def __init__(self, app: ASGIApp, http: Http, tls: ssl.SSLContext | None) -> None:
        bounds = replace(http, max_connections=room_for_connections(http.max_connections))
        config = uvicorn.Config(
            app,
            http=type("Connection", (BoundedConnection,), {"http": bounds}),
            ws="none",
            log_level="error",  # a warning for each request that is no HTTP would fill the disk
            access_log=False,
            lifespan="off",
            server_header=False,
            proxy_headers=False,  # forged X-Forwarded-* must not reach the signed URLs
            timeout_keep_alive=75,
            timeout_graceful_shutdown=2,
        )
        config.load()
        config.ssl = tls
        super().__init__(config)

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


def room_for_connections(wanted: int) -> int:
    """How many this process may have open, after asking the system for so many."""
    if os.name == "nt":
        return wanted
    import resource

    others = OTHER_FILES + SPARE_CONNECTIONS
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != resource.RLIM_INFINITY and soft < wanted + others:
        has_ceiling = hard != resource.RLIM_INFINITY
        soft = min(wanted + others, hard) if has_ceiling else wanted + others
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    return wanted if soft == resource.RLIM_INFINITY else max(min(wanted, soft - others), 16)
