"""How many requests came, what became of them and how long they took."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from http import HTTPStatus

from prometheus_client import CollectorRegistry, Counter, Histogram
from starlette.routing import BaseRoute, Mount, Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

NO_ROUTE = "none"
BUCKETS_S = (0.005, 0.02, 0.1, 0.5, 2.0, 10.0, 30.0, 120.0)
"""Wide ones, up to polls that are held and answers that are streamed."""


class Measured:
    """ASGI middleware. Routes are told by their pattern, never by the path that was asked for."""

    def __init__(
        self, app: ASGIApp, *, registry: CollectorRegistry, routes: Iterable[BaseRoute]
    ) -> None:
        self._app = app
        self._path_of = dict(_endpoints(routes))
        self._requests = Counter(
            "tinsmith_http_requests",
            "Requests that were answered.",
            ["route", "status"],
            registry=registry,
        )
        self._seconds = Histogram(
            "tinsmith_http_request_seconds",
            "From a request's head to the end of its answer; polls are held on purpose.",
            ["route"],
            buckets=BUCKETS_S,
            registry=registry,
        )

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        status: int | None = None
        started = time.perf_counter()

        async def note_status(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            await self._app(scope, receive, note_status)
        except Exception:
            status = status or HTTPStatus.INTERNAL_SERVER_ERROR  # answered further out
            raise
        finally:
            if status is not None:  # else the client has left before there was an answer
                route = self._path_of.get(id(scope.get("endpoint")), NO_ROUTE)
                self._requests.labels(route, str(int(status))).inc()
                self._seconds.labels(route).observe(time.perf_counter() - started)


def _endpoints(routes: Iterable[BaseRoute], prefix: str = "") -> Iterator[tuple[int, str]]:
    """The id of what answers on each route, as not all that may stand there has a hash, and the
    route's pattern from the root on."""
    for route in routes:
        if isinstance(route, Mount):
            yield from _endpoints(route.routes, prefix + route.path)
        elif isinstance(route, Route):
            yield id(route.endpoint), prefix + route.path
