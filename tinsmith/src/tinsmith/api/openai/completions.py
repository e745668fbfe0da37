"""POST /v1/completions."""

from __future__ import annotations

from dataclasses import replace
from typing import TypeGuard

import numpy as np
from starlette.requests import Request
from starlette.responses import Response

from tinsmith.api.front import Front, caller_of, front_of, in_thread, read_fields
from tinsmith.api.openai.answering import Call, Prompted, answer
from tinsmith.api.openai.asked import MAX_TOP, Asked, check_names, read_asked
from tinsmith.api.openai.forms import CompletionForm
from tinsmith.api.openai.growing_text import GrowingText, Piece, ScoredToken
from tinsmith.api.openai.model_text import ModelText, model_text_in
from tinsmith.api.openai.streaming import answer_in_parts
from tinsmith.api.wire.fields import Fields
from tinsmith.domain.errors import InvalidInputError
from tinsmith.domain.ops import Sample
from tinsmith.domain.records import Caller

SERVED = frozenset({"prompt", "echo", "logprobs", "best_of"})
MAX_TOKENS_UNLESS_SAID = 16
INT32_MAX = 2**31 - 1


async def completions(request: Request) -> Response:
    caller = caller_of(request)
    fields = await read_fields(request)
    call = await in_thread(_read, front_of(request), caller, fields)
    return await (answer_in_parts if call.asked.is_streamed else answer)(request, call)


def _read(front: Front, caller: Caller, fields: Fields) -> Call:
    check_names(fields, SERVED)
    has_echo = fields.flag_or("echo", False)
    max_tokens = fields.integer_or("max_tokens", MAX_TOKENS_UNLESS_SAID)
    is_echo_only = has_echo and max_tokens == 0
    num_top = fields.integer_or("logprobs", None, high=MAX_TOP)
    asked = read_asked(fields, max_tokens=1 if is_echo_only else max_tokens, num_top=num_top)
    if fields.integer_or("best_of", asked.num_samples) != asked.num_samples:
        raise fields.refuse("best_of", f"left out or equal to n, which is {asked.num_samples}")
    if asked.is_streamed and has_echo and (num_top is not None or is_echo_only):
        raise InvalidInputError(
            "an echo with logprobs, or of the prompt alone, can't be streamed; send stream false"
        )
    model = front.service.model_samplers.find(caller, asked.model)
    text = model_text_in(model.base.directory)
    prompts = [_prompted(prompt, text, asked, has_echo) for prompt in _read_prompts(fields)]
    form = CompletionForm(text, has_logprobs=num_top is not None)
    return Call(caller, model, text, asked, form, prompts, is_echo_only)


def _read_prompts(fields: Fields) -> list[str | list[int]]:
    """The API's four forms: a text, texts, tokens, lists of tokens."""
    value = fields.raw("prompt")
    prompts = value if isinstance(value, list) and not _are_tokens(value) else [value]
    if not prompts or not all(isinstance(one, str) or _are_tokens(one) for one in prompts):
        raise fields.refuse("prompt", "a string, token ids, or a list of strings or of token ids")
    return prompts


def _are_tokens(value: object) -> TypeGuard[list[int]]:
    return (
        isinstance(value, list)
        and bool(value)
        and all(type(item) is int and 0 <= item <= INT32_MAX for item in value)
    )


def _prompted(prompt: str | list[int], text: ModelText, asked: Asked, has_echo: bool) -> Prompted:
    is_text = isinstance(prompt, str)
    tokens = text.encode(prompt, add_special_tokens=True) if is_text else prompt
    sample = Sample(
        np.asarray(tokens, np.int32),
        asked.params,
        num_samples=asked.num_samples,
        topk_sample_logprobs=asked.num_top or 0,
    )
    if not has_echo:
        return Prompted(sample)
    echo = _echo(text, tokens)
    if asked.num_top is None:
        return Prompted(sample, Piece(prompt if is_text else echo.text, ()))
    sample = replace(sample, prompt_logprobs=True, topk_prompt_logprobs=asked.num_top)
    return Prompted(sample, echo)


def _echo(text: ModelText, tokens: list[int]) -> Piece:
    growing, whole, scored = GrowingText(text), "", []
    for token in tokens:
        scored.append(ScoredToken(token, None, (), len(whole)))
        whole += growing.add(token)
    return Piece(whole + growing.rest(), tuple(scored))
