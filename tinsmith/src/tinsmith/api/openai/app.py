"""The part of the HTTP application that speaks as OpenAI's API does."""

from __future__ import annotations

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.routing import Route

from tinsmith.api.errors import answer_nobody
from tinsmith.api.front import Front
from tinsmith.api.openai import errors
from tinsmith.api.openai.chat import chat_completions
from tinsmith.api.openai.completions import completions
from tinsmith.api.openai.models import get_model, list_models
from tinsmith.domain.errors import TinsmithError

ROUTES = [
    Route("/models", list_models),
    Route("/models/{model:path}", get_model),
    Route("/completions", completions, methods=["POST"]),
    Route("/chat/completions", chat_completions, methods=["POST"]),
]


def create_openai_app(front: Front) -> Starlette:
    """An application of its own, since its errors have a form of their own."""
    app = Starlette(
        routes=ROUTES,
        exception_handlers={
            TinsmithError: errors.answer_domain_error,
            HTTPException: errors.answer_http_error,
            ClientDisconnect: answer_nobody,
            Exception: errors.answer_bug,
        },
    )
    app.router.redirect_slashes = False
    app.state.front = front
    return app
