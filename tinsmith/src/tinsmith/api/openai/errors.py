"""Errors in the form that OpenAI's clients read."""

from __future__ import annotations

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from tinsmith.api.errors import status_of, when_to_repeat, writable
from tinsmith.domain.errors import (
    AccessError,
    BusyError,
    InvalidInputError,
    NotFoundError,
    ServiceError,
    UserError,
)
from tinsmith.domain.outcomes import Failed, FailureCategory
from tinsmith.telemetry import failure

_NO_KEY = "invalid_api_key"
_NO_MODEL = "model_not_found"


def error_body(message: str, kind: str, code: str | None = None) -> dict[str, object]:
    told = {"message": writable(message), "type": kind, "param": None, "code": code}
    return {"error": told}


async def answer_domain_error(request: Request, error: Exception) -> Response:
    path = request.url.path
    if isinstance(error, ServiceError) and not isinstance(error, BusyError):
        failure("request_failed", error, path=path)
    code = None
    if isinstance(error, AccessError | NotFoundError):
        code = _NO_KEY if isinstance(error, AccessError) else _NO_MODEL
    body = error_body(str(error), _kind_of(error), code)
    return JSONResponse(body, status_code=status_of(error, path), headers=when_to_repeat(error))


async def answer_bug(request: Request, error: Exception) -> Response:
    """Anything unforeseen. Starlette re-raises it afterwards, and the server logs the traceback."""
    body = error_body("the server failed at this request; its log says why", "server_error")
    return JSONResponse(body, status_code=500)


async def answer_http_error(request: Request, error: Exception) -> Response:
    """Unknown paths and methods."""
    assert isinstance(error, HTTPException)
    message = (
        f"this server has no call {request.method} {request.url.path}; it serves GET /v1/models, "
        "POST /v1/completions and POST /v1/chat/completions"
    )
    body = error_body(message, "invalid_request_error", "unknown_url")
    return JSONResponse(body, status_code=error.status_code)


def error_of(failed: Failed) -> UserError | ServiceError:
    """What an engine made of a sample, as an error to raise."""
    if failed.category is FailureCategory.USER:
        return InvalidInputError(failed.message)
    return ServiceError(failed.message)


def event_of(error: UserError | ServiceError) -> dict[str, object]:
    """For a stream that has begun and can't change its status any more."""
    return error_body(str(error), _kind_of(error))


def _kind_of(error: Exception) -> str:
    if isinstance(error, BusyError):
        return "rate_limit_error"
    return "server_error" if isinstance(error, ServiceError) else "invalid_request_error"
