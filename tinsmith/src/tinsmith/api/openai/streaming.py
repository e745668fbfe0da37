"""The answer to a call as server-sent events, while its tokens are being decoded."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import ExitStack, aclosing
from dataclasses import replace
from typing import Any

from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response, StreamingResponse
from starlette.types import Receive, Scope, Send

from tinsmith.api.front import Front, front_of
from tinsmith.api.openai.answering import (
    REASONS,
    Call,
    call_off,
    rest_of,
    result_of,
    shifted,
    submit,
)
from tinsmith.api.openai.errors import event_of
from tinsmith.api.openai.forms import Usage
from tinsmith.api.openai.growing_text import Piece
from tinsmith.domain.errors import ServiceError, UserError
from tinsmith.domain.outcomes import Sampled
from tinsmith.domain.records import Caller
from tinsmith.service.streams import FreshToken, TokenStream

_Heard = asyncio.Queue[tuple[int, list[FreshToken] | Sampled | Exception]]


async def answer_in_parts(request: Request, call: Call) -> Response:
    """Raises UserError or ServiceError for what is refused at once; a stream that has begun tells
    of trouble in an event."""
    chunks = _chunks(front_of(request), call)
    await anext(chunks)
    return _EventStream(_events(chunks), media_type="text/event-stream")


async def _chunks(front: Front, call: Call) -> AsyncGenerator[dict[str, Any], None]:
    """The stream's objects; the first, an empty one, says that the requests were taken in."""
    envelope = call.form.envelope(call.asked.model, is_streamed=True)
    usage = Usage()
    heard: _Heard = asyncio.Queue()
    with ExitStack() as streams:
        streams.enter_context(front.waiting.seat(call.caller.owner))
        opened = [streams.enter_context(front.service.streams.open()) for _ in call.prompts]
        samples = [
            replace(prompt.sample, stream=stream.name)
            for prompt, stream in zip(call.prompts, opened, strict=True)
        ]
        requests = await submit(front, call, samples)
        tasks = [asyncio.create_task(_hear(i, stream, heard)) for i, stream in enumerate(opened)]
        tasks += [
            asyncio.create_task(_hear_result(i, front, call.caller, request_id, heard))
            for i, request_id in enumerate(requests)
        ]
        try:
            yield {}
            told = [_Told(call, i) for i in range(len(call.prompts))]
            for one in told:
                for chunk in one.begin():
                    yield envelope.around([chunk], None)
            num_open = len(told)
            while num_open:
                i, news = await heard.get()
                if isinstance(news, Exception):
                    raise news
                if isinstance(news, Sampled):
                    num_open -= 1
                    call.count(usage, samples[i], news)
                more = told[i].end(news) if isinstance(news, Sampled) else told[i].go_on(news)
                for chunk in more:
                    yield envelope.around([chunk], None)
        except BaseException:  # the client has left, or one of several prompts has failed
            await call_off(front, call.caller, requests)
            raise
        finally:
            for task in tasks:
                task.cancel()
    if call.asked.has_usage_at_end:
        yield envelope.around([], usage)


class _Told:
    """The choices of one prompt, as far as the client has been told of them."""

    def __init__(self, call: Call, prompt: int) -> None:
        self._call = call
        self._prompt = prompt
        self._echo = call.prompts[prompt].echo
        self._texts = [call.answer_text() for _ in range(call.asked.num_samples)]
        self._num_tokens = [0] * call.asked.num_samples
        self._is_ended = False

    def begin(self) -> list[dict[str, Any]]:
        form = self._call.form
        places = [self._call.place_of(self._prompt, i) for i in range(len(self._texts))]
        chunks = [chunk for place in places if (chunk := form.opening(place)) is not None]
        return chunks + [form.chunk(place, self._echo, None) for place in places if self._echo.text]

    def go_on(self, tokens: Sequence[FreshToken]) -> list[dict[str, Any]]:
        chunks = []
        for fresh in tokens:
            # An engine that began again tells twice; what was missed comes with the result.
            if self._is_ended or fresh.place != self._num_tokens[fresh.number]:
                continue
            self._num_tokens[fresh.number] += 1
            piece = self._texts[fresh.number].add(fresh.token, fresh.logprob, fresh.top)
            if piece.text or piece.tokens:
                chunks.append(self._chunk(fresh.number, piece, None))
        return chunks

    def end(self, sampled: Sampled) -> list[dict[str, Any]]:
        self._is_ended = True
        return [
            self._chunk(
                number,
                rest_of(self._texts[number], sequence, self._num_tokens[number]),
                REASONS[sequence.stop_reason],
            )
            for number, sequence in enumerate(sampled.sequences)
        ]

    def _chunk(self, number: int, piece: Piece, reason: str | None) -> dict[str, Any]:
        place = self._call.place_of(self._prompt, number)
        return self._call.form.chunk(place, shifted(piece, len(self._echo.text)), reason)


async def _hear(number: int, stream: TokenStream, heard: _Heard) -> None:
    while True:
        heard.put_nowait((number, await stream.next()))


async def _hear_result(
    number: int, front: Front, caller: Caller, request_id: str, heard: _Heard
) -> None:
    try:
        heard.put_nowait((number, await result_of(front, caller, request_id)))
    except Exception as error:  # the edge of a task: who reads the queue raises it
        heard.put_nowait((number, error))


async def _events(chunks: AsyncGenerator[dict[str, Any], None]) -> AsyncGenerator[str, None]:
    async with aclosing(chunks):
        try:
            async for chunk in chunks:
                yield _event(chunk)
        except (UserError, ServiceError) as error:
            yield _event(event_of(error))
            return
    yield "data: [DONE]\n\n"


def _event(content: Mapping[str, Any]) -> str:
    return f"data: {json.dumps(content, ensure_ascii=False)}\n\n"


class _EventStream(StreamingResponse):
    """A client that leaves in the middle ends its stream, and is no error."""

    def __init__(self, events: AsyncGenerator[str, None], *, media_type: str) -> None:
        super().__init__(events, media_type=media_type)
        self._events = events

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async with aclosing(self._events):
            try:
                await super().__call__(scope, receive, send)
            except ClientDisconnect:
                return
