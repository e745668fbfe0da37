"""The part of the HTTP application that speaks as OpenAI's API does."""

from __future__ import annotations

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect

from tinsmith.api.calls import Call, bearer_key
from tinsmith.api.errors import answer_nobody
from tinsmith.api.front import Front
from tinsmith.api.openai import errors
from tinsmith.api.openai.chat import chat_completions
from tinsmith.api.openai.completions import completions
from tinsmith.api.openai.models import get_model, list_models
from tinsmith.domain.errors import TinsmithError
from tinsmith.domain.rights import Right

ROUTES = [
    Call("/models", list_models, Right.READ, key_of=bearer_key),
    Call("/models/{model:path}", get_model, Right.READ, key_of=bearer_key),
    Call("/completions", completions, Right.WORK, "POST", key_of=bearer_key),
    Call("/chat/completions", chat_completions, Right.WORK, "POST", key_of=bearer_key),
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
