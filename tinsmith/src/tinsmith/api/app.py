"""The HTTP application: paths, errors, and what the handlers work with."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from anyio import CapacityLimiter
from prometheus_client import CollectorRegistry, ProcessCollector
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import ClientDisconnect

from tinsmith.api import errors
from tinsmith.api.disk_metrics import DiskCollector
from tinsmith.api.front import LARGE_THREADS, Front
from tinsmith.api.guarded import Guarded
from tinsmith.api.measured import Measured
from tinsmith.api.metrics import EngineCollector, Engines
from tinsmith.api.openai.app import create_openai_app
from tinsmith.api.routes import every_route
from tinsmith.api.waiting import WaitingRoom
from tinsmith.config import Http, Limits
from tinsmith.domain.errors import TinsmithError
from tinsmith.service.service import Service


def create_app(
    service: Service,
    *,
    is_healthy: Callable[[], bool],
    engines: Engines,
    limits: Limits,
    http: Http | None = None,
    loopback: bool = True,
    poll_hold_s: float = 25.0,
    cors_origins: Sequence[str] = (),
) -> Starlette:
    """The ASGI application.

    Args:
        is_healthy: whether every model answers; called in a thread, may block.
        engines: what the engines have told, for /metrics and /readyz; must not block.
        http: bounds, and the address from outside; None: the defaults.
        loopback: whether callers from this machine's own addresses count as local. Switch it off
            behind a proxy, which makes everybody look local.
        poll_hold_s: how long a poll waits for its result; below the SDK's timeout of 45 s.
        cors_origins: web pages that may call from a browser.
    """
    registry = CollectorRegistry()
    registry.register(EngineCollector(engines))
    registry.register(DiskCollector(service.disk.read))
    ProcessCollector(registry=registry)
    http = http or Http()
    waiting = WaitingRoom(http.max_held_polls, http.max_held_polls_per_owner)
    front = Front(
        service,
        is_healthy,
        limits,
        loopback,
        poll_hold_s,
        engines,
        registry,
        waiting,
        http.public_url.rstrip("/"),
        CapacityLimiter(LARGE_THREADS),
    )
    routes = every_route(create_openai_app(front))
    app = Starlette(
        routes=routes,
        exception_handlers={
            TinsmithError: errors.answer_domain_error,
            HTTPException: errors.answer_http_error,
            ClientDisconnect: errors.answer_nobody,
            Exception: errors.answer_bug,
        },
        middleware=[
            Middleware(Measured, registry=registry, routes=routes),
            Middleware(Guarded, max_bodies_bytes=http.max_bodies_bytes),
            *([_cors(cors_origins)] if cors_origins else []),
        ],
    )
    app.router.redirect_slashes = False
    app.state.front = front
    return app


def _cors(origins: Sequence[str]) -> Middleware:
    """Keys travel in headers of their own, so nothing needs the browser's cookies."""
    return Middleware(
        CORSMiddleware, allow_origins=origins, allow_methods=["*"], allow_headers=["*"]
    )
