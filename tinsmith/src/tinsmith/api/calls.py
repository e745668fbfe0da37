"""A call of the API: its path, the right it takes, and its name in the audit log."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from tinsmith.api.audit import note
from tinsmith.api.front import admit, caller_of
from tinsmith.domain.errors import AccessError, ForbiddenError
from tinsmith.domain.rights import Right, check_right

Handler = Callable[[Request], Awaitable[Response]]


def header_key(request: Request) -> str | None:
    """As the tinker SDK sends it."""
    return request.headers.get("x-api-key")


def bearer_key(request: Request) -> str | None:
    """As OpenAI's clients and Prometheus send it. Raises AccessError."""
    scheme, _, key = request.headers.get("authorization", "").partition(" ")
    if scheme.lower() != "bearer" or not key.strip():
        raise AccessError("no API key: send one as Authorization: Bearer KEY")
    return key.strip()


def any_key(request: Request) -> str | None:
    """One of the two, or none. Raises AccessError."""
    return bearer_key(request) if "authorization" in request.headers else header_key(request)


class Call(Route):
    """Every way into the server is one of these: it lets callers in, checks what they may, and
    notes what they did. The handler finds the caller with `caller_of`."""

    def __init__(
        self,
        path: str,
        handler: Handler,
        right: Right | None,
        method: str = "GET",
        audited: str | None = None,
        *,
        key_of: Callable[[Request], str | None] = header_key,
    ) -> None:
        """
        Args:
            right: what the caller needs; None lets everybody in, without a key.
            audited: the name under which the audit log has each such call; None has only those
                that were refused for want of the right.
            key_of: where the key is found in a request.
        """
        self.right = right
        self.audited = audited
        self.handler = handler
        self._action = audited or handler.__name__
        self._key_of = key_of
        super().__init__(path, self._answer, methods=[method])

    async def _answer(self, request: Request) -> Response:
        if self.right is None:
            return await self.handler(request)
        is_for_operator = self.right is Right.OPERATE
        await admit(request, self._key_of(request), may_be_silent=is_for_operator)
        try:
            check_right(caller_of(request), self.right)
            answer = await self.handler(request)
        except ForbiddenError:
            note(request, self._action, 403)
            raise
        if self.audited is not None and answer.status_code < 300:
            note(request, self._action, answer.status_code)
        return answer
