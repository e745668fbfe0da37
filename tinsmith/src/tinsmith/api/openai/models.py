"""GET /v1/models and GET /v1/models/{model}."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from tinsmith.api.front import caller_of, front_of, in_thread
from tinsmith.service.model_samplers import NamedModel


async def list_models(request: Request) -> Response:
    caller, samplers = caller_of(request), front_of(request).service.model_samplers
    models = await in_thread(samplers.list, caller)
    return JSONResponse({"object": "list", "data": [_write(model) for model in models]})


async def get_model(request: Request) -> Response:
    caller, samplers = caller_of(request), front_of(request).service.model_samplers
    model = await in_thread(samplers.find, caller, request.path_params["model"])
    return JSONResponse(_write(model))


def _write(model: NamedModel) -> dict[str, Any]:
    """`root` and `max_model_len` are not OpenAI's, but other open servers say them too."""
    if model.checkpoint is None:
        created = (Path(model.base.directory) / "config.json").stat().st_mtime
    else:
        created = model.checkpoint.created_at.timestamp()
    return {
        "id": model.name,
        "object": "model",
        "created": int(created),
        "owned_by": "tinsmith",
        "root": model.base.name,
        "max_model_len": model.base.max_context,
    }
