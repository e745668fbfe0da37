"""Start-up, sessions, and what the client asks of the server as a whole."""

from __future__ import annotations

import re

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from tinsmith.api.audit import about
from tinsmith.api.errors import refusal
from tinsmith.api.front import (
    caller_of,
    front_of,
    in_thread,
    is_local,
    page_of,
    read_body,
    read_fields,
)
from tinsmith.api.wire.catalogue import write_capabilities, write_session
from tinsmith.api.wire.fields import Fields, is_storable
from tinsmith.api.wire.session_search import read_session_search, write_search_page
from tinsmith.domain.errors import AccessError, ForbiddenError, NotFoundError
from tinsmith.domain.session_search import CLIENT_REASONS
from tinsmith.telemetry import event

CLIENT_CONFIG = {
    # Chunks of a batch then arrive in order; with true, one refused chunk blocks the SDK for ever.
    "parallel_fwdbwd_chunks": False,
    # Each sample in flight holds a poll open.
    "sample_max_concurrent_requests": 256,
    # `whoami` reads the token.
    "pjwt_auth_enabled": True,
}
DYNAMIC_CONFIG = {"sample_cancel_enabled": True}
KEY_PREFIXES = ("tml-", "eyJ")
"""The SDK sends no other keys."""


async def client_config(request: Request) -> Response:
    version = (await read_fields(request)).text_or("sdk_version", "unknown")
    if re.fullmatch(r"[\w.+-]{1,40}", version, re.ASCII):
        event("client_connected", sdk_version=version)
    return JSONResponse(CLIENT_CONFIG)


async def client_dynamic_config(request: Request) -> Response:
    return JSONResponse(DYNAMIC_CONFIG)


async def create_session(request: Request) -> Response:
    caller = caller_of(request)
    fields = await read_fields(request)
    session = await in_thread(
        front_of(request).service.sessions.create,
        caller,
        idempotency_key=request.headers.get("x-idempotency-key"),
        tags=_read_tags(fields),
        user_metadata=fields.metadata("user_metadata"),
        display_name=fields.text_or("display_name", None),
        project_id=fields.text_or("project_id", None),
    )
    about(request, session.session_id)
    return JSONResponse({"type": "create_session", "session_id": session.session_id})


def _read_tags(fields: Fields) -> list[str]:
    tags = fields.items_or("tags", [])
    if not all(isinstance(tag, str) and is_storable(tag) for tag in tags):
        raise fields.refuse("tags", "a list of strings")
    return tags


async def session_heartbeat(request: Request) -> Response:
    caller = caller_of(request)
    session_id = (await read_fields(request)).text("session_id")
    try:
        await in_thread(front_of(request).service.sessions.heartbeat, caller, session_id)
    except NotFoundError as error:
        return refusal(410, str(error))  # ends the SDK's heartbeat; other codes just make it warn
    return JSONResponse({"type": "session_heartbeat"})


async def finish_session(request: Request) -> Response:
    caller = caller_of(request)
    fields = await read_fields(request)
    reason = fields.object_or("reason", Fields({})).text_or("type", "success")
    if reason not in CLIENT_REASONS:
        raise fields.refuse("reason", f"an object whose type is one of {', '.join(CLIENT_REASONS)}")
    sessions = front_of(request).service.sessions
    await in_thread(sessions.finish, caller, request.path_params["session"], reason)
    return JSONResponse({})


async def list_sessions(request: Request) -> Response:
    limit, offset = page_of(request)
    sessions = await in_thread(
        front_of(request).service.sessions.list, caller_of(request), limit=limit, offset=offset
    )
    return JSONResponse({"sessions": [session.session_id for session in sessions]})


async def search_sessions(request: Request) -> Response:
    caller, sessions = caller_of(request), front_of(request).service.sessions
    search = read_session_search(await read_fields(request), caller.owner)
    if search is None:
        return JSONResponse(write_search_page([], False))
    return JSONResponse(write_search_page(*await in_thread(sessions.search, caller, search)))


async def assign_project(request: Request) -> Response:
    caller, sessions = caller_of(request), front_of(request).service.sessions
    project_id = (await read_fields(request)).text("project_id")
    await in_thread(sessions.assign_project, caller, request.path_params["session"], project_id)
    return Response(status_code=204)


async def get_session(request: Request) -> Response:
    caller, sessions = caller_of(request), front_of(request).service.sessions
    session_id = request.path_params["session"]

    def read() -> dict[str, object]:
        return write_session(
            sessions.get(caller, session_id),
            run_ids=sessions.run_ids(caller, session_id),
            sampler_ids=sessions.sampler_ids(caller, session_id),
        )

    return JSONResponse(await in_thread(read))


async def get_server_capabilities(request: Request) -> Response:
    return JSONResponse(write_capabilities(front_of(request).service.models.list()))


async def telemetry(request: Request) -> Response:
    """Accepted and dropped, unread: events may hold the user's own error texts."""
    await read_body(request)
    return JSONResponse({"status": "accepted"})


async def api_key(request: Request) -> Response:
    """What `tinker auth login` checks a key with; it leaves the key's form to us."""
    caller = caller_of(request)
    if not request.headers.get("x-api-key", "").startswith(KEY_PREFIXES):
        raise AccessError("the SDK takes only keys that start with tml-; choose such a key")
    return JSONResponse(
        {
            "key_id": 0,
            "name": caller.owner,
            "note": f"a key of this tinsmith server, role {caller.role}",
            "details": {
                "org_details": {"name": "tinsmith"},
                "user_details": {"email": caller.owner},
            },
        }
    )


async def forget_api_key(request: Request) -> Response:
    """What `tinker auth logout` asks for, to revoke a key that its login has made. Ours are made
    by no login, and other machines may use them too."""
    raise ForbiddenError(
        "logging out forgets a key on this side only; the server's operator revokes it with "
        "`tinsmith keys revoke`"
    )


async def auth_token(request: Request) -> Response:
    await read_body(request)
    key, access = request.headers.get("x-api-key"), front_of(request).service.access
    return JSONResponse({"jwt": await in_thread(access.exchange, key, is_local(request))})
