"""POST /v1/chat/completions."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
from starlette.requests import Request
from starlette.responses import Response

from tinsmith.api.front import Front, caller_of, front_of, in_thread, read_fields
from tinsmith.api.openai.answering import Call, Prompted, answer
from tinsmith.api.openai.asked import MAX_TOP, check_names, read_asked
from tinsmith.api.openai.forms import ChatForm
from tinsmith.api.openai.model_text import model_text_in
from tinsmith.api.openai.streaming import answer_in_parts
from tinsmith.api.wire.fields import Fields
from tinsmith.domain.errors import InvalidInputError
from tinsmith.domain.ops import Sample
from tinsmith.domain.records import Caller

SERVED = frozenset(
    {
        "messages",
        "max_completion_tokens",
        "logprobs",
        "top_logprobs",
        "tools",
        "tool_choice",
        "chat_template_kwargs",
    }
)
ROLES = {role: role for role in ("system", "user", "assistant", "tool")} | {"developer": "system"}
"""As templates know them."""


async def chat_completions(request: Request) -> Response:
    caller = caller_of(request)
    fields = await read_fields(request)
    call = await in_thread(_read, front_of(request), caller, fields)
    return await (answer_in_parts if call.asked.is_streamed else answer)(request, call)


def _read(front: Front, caller: Caller, fields: Fields) -> Call:
    check_names(fields, SERVED)
    asked = read_asked(fields, max_tokens=_read_max_tokens(fields), num_top=_read_num_top(fields))
    messages, tools = _read_messages(fields), _read_tools(fields)
    settings = fields.object_or("chat_template_kwargs", Fields({}))
    model = front.service.model_samplers.find(caller, asked.model)
    text = model_text_in(model.base.directory)
    if text.template is None:
        raise InvalidInputError(
            f"{model.base.name} has no chat template; use /v1/completions and write the prompt as "
            "the model knows it"
        )
    variables = {name: settings.raw(name) for name in settings.names()}
    prompt = text.template.render(messages, tools, variables)
    sample = Sample(
        np.asarray(text.encode(prompt, add_special_tokens=False), np.int32),
        asked.params,
        num_samples=asked.num_samples,
        topk_sample_logprobs=asked.num_top or 0,
    )
    form = ChatForm(
        text,
        has_logprobs=asked.num_top is not None,
        may_call_tools=tools is not None and text.template.writes_calls,
    )
    return Call(caller, model, text, asked, form, [Prompted(sample)])


def _read_max_tokens(fields: Fields) -> int | None:
    names = [name for name in ("max_completion_tokens", "max_tokens") if fields.has(name)]
    given = {fields.integer(name, low=1) for name in names}
    if len(given) > 1:
        raise InvalidInputError(
            "max_tokens and max_completion_tokens differ; send max_completion_tokens alone"
        )
    return given.pop() if given else None


def _read_num_top(fields: Fields) -> int | None:
    num_top = fields.integer_or("top_logprobs", 0, high=MAX_TOP)
    if fields.flag_or("logprobs", False):
        return num_top
    if num_top:
        raise InvalidInputError("top_logprobs needs logprobs to be true")
    return None


def _read_tools(fields: Fields) -> list[dict[str, Any]] | None:
    """The tools that the template is to tell of."""
    tools = fields.items_or("tools", [])
    if not all(isinstance(tool, dict) and tool.get("type") == "function" for tool in tools):
        raise fields.refuse("tools", 'a list of objects of the type "function"')
    choice = fields.text_or("tool_choice", "auto") if _is_text(fields, "tool_choice") else None
    if choice not in ("auto", "none"):
        raise fields.refuse("tool_choice", "auto or none: a call can't be forced")
    return tools if tools and choice == "auto" else None


def _is_text(fields: Fields, name: str) -> bool:
    return fields.raw(name) is None or isinstance(fields.raw(name), str)


def _read_messages(fields: Fields) -> list[dict[str, Any]]:
    messages = fields.items_or("messages", [])
    if not messages:
        raise fields.refuse("messages", "a list of at least one message")
    return [_read_message(message, f"messages[{i}]") for i, message in enumerate(messages)]


def _read_message(message: object, where: str) -> dict[str, Any]:
    if not isinstance(message, dict):
        raise InvalidInputError(f"{where} must be an object with role and content")
    role = message.get("role")
    if not isinstance(role, str) or role not in ROLES:
        raise InvalidInputError(
            f"{where}.role must be one of {', '.join(ROLES)}, got {str(role)[:40]!r}"
        )
    read = {name: value for name, value in message.items() if value is not None}
    read |= {"role": ROLES[role], "content": _read_content(message.get("content"), where)}
    if "tool_calls" in read:
        read["tool_calls"] = [_read_tool_call(one, where) for one in _as_list(read, where)]
    elif message.get("content") is None:
        raise InvalidInputError(f"{where}.content is missing; it must be a string")
    return read


def _read_content(content: object, where: str) -> str:
    """A string, or parts of which all are text."""
    if content is None or isinstance(content, str):
        return content or ""
    if not isinstance(content, list):
        raise InvalidInputError(f"{where}.content must be a string or a list of parts")
    texts = []
    for part in content:
        kind = part.get("type") if isinstance(part, dict) else None
        if not isinstance(part, dict) or kind != "text" or not isinstance(part.get("text"), str):
            raise InvalidInputError(
                f"{where}.content must be a string or parts of the type text, got a part of the "
                f"type {str(kind)[:40]!r}: this server takes no images, sounds or files"
            )
        texts.append(part["text"])
    return "".join(texts)


def _as_list(message: dict[str, Any], where: str) -> list[Any]:
    calls = message["tool_calls"]
    if not isinstance(calls, list):
        raise InvalidInputError(f"{where}.tool_calls must be a list")
    return calls


def _read_tool_call(call: object, where: str) -> dict[str, Any]:
    """Templates want a call's arguments as an object, where the API has JSON in a string."""
    function = call.get("function") if isinstance(call, dict) else None
    if not isinstance(call, dict) or not isinstance(function, dict):
        raise InvalidInputError(f"{where}.tool_calls must hold objects with a function")
    arguments = function.get("arguments")
    if isinstance(arguments, str):
        try:
            arguments = json.loads(arguments)
        except ValueError:
            arguments = function["arguments"]  # a model's bad JSON is still what it said
    return {**call, "function": {**function, "arguments": arguments}}
