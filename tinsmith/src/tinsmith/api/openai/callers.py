"""Who is asking, by the header that OpenAI's clients send."""

from __future__ import annotations

from starlette.requests import Request

from tinsmith.api.front import owner_of_key
from tinsmith.domain.errors import AccessError
from tinsmith.domain.records import Caller


def caller_of(request: Request) -> Caller:
    """Raises AccessError."""
    scheme, _, key = request.headers.get("authorization", "").partition(" ")
    if scheme.lower() != "bearer" or not key.strip():
        raise AccessError("no API key: send one as Authorization: Bearer KEY")
    return owner_of_key(request, key.strip())
