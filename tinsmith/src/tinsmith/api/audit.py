"""The audit log: noting what a request was about, and GET /audit."""

from __future__ import annotations

from datetime import date

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from tinsmith.api.front import caller_of, front_of, in_thread
from tinsmith.api.wire.audit import write_audit
from tinsmith.api.wire.fields import is_storable
from tinsmith.domain.errors import InvalidInputError, StorageError
from tinsmith.telemetry import failure

MAX_OBJECT = 300
"""Characters; ids are shorter."""

PREFIXES = {
    "all": "",
    "checkpoints": "checkpoint_",
    "projects": "project_",
    "teams": "team_",
    "organizations": "organization_",
}
"""The SDK's types of events. There are no teams and organizations here, so nothing happens to
them."""


def about(request: Request, object_id: str) -> None:
    """Say by its id what the request is about, where its path does not."""
    request.state.about = object_id


def note(request: Request, action: str, status: int) -> None:
    """Enter the request into the audit log. What was done is answered so, whatever becomes of
    that."""
    caller, audit = caller_of(request), front_of(request).service.audit
    address = request.client.host if request.client else None
    try:
        audit.note(caller, address, action, _object_of(request), status)
    except StorageError as error:
        failure("audit_failed", error, action=action)


def _object_of(request: Request) -> str | None:
    named: str | None = getattr(request.state, "about", None)
    if named is None:
        path = request.path_params
        if {"run", "kind", "name"} <= path.keys():
            named = f"tinker://{path['run']}/{path['kind']}/{path['name']}"
        else:
            named = next((str(value) for value in path.values()), None)
    return named[:MAX_OBJECT] if named is not None and is_storable(named) else None


async def read_audit(request: Request) -> Response:
    """One day of the project's."""
    caller, audit = caller_of(request), front_of(request).service.audit
    kind, day = request.query_params.get("event_type", "all"), request.query_params.get("day")
    if kind not in PREFIXES:
        raise InvalidInputError(f"event_type must be one of {', '.join(PREFIXES)}")
    entries = await in_thread(
        audit.of_day, caller, _day(day) if day else None, action_prefix=PREFIXES[kind]
    )
    return JSONResponse(write_audit(entries))


def _day(text: str) -> date:
    try:
        day = date.fromisoformat(text)
    except ValueError as error:
        raise InvalidInputError("day must be a date such as 2026-11-22") from error
    if day == date.max:
        raise InvalidInputError(f"day must be before {date.max}: there is none behind it")
    return day
