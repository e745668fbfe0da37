"""From the sample requests of a call to its answer."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from anyio import CancelScope
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response

from tinsmith.api.front import Front, front_of, in_thread
from tinsmith.api.openai.asked import Asked
from tinsmith.api.openai.errors import error_of
from tinsmith.api.openai.forms import Form, Usage
from tinsmith.api.openai.growing_text import AnswerText, Piece
from tinsmith.api.openai.model_text import ModelText
from tinsmith.domain.ops import Sample
from tinsmith.domain.outcomes import Failed, Sampled, SampledSequence, StopReason, Succeeded, TopK
from tinsmith.domain.records import Caller
from tinsmith.service.model_samplers import NamedModel

NOTHING = Piece("", ())
REASONS = {StopReason.STOP: "stop", StopReason.LENGTH: "length"}


@dataclass(frozen=True, slots=True)
class Prompted:
    """A prompt's request, and what comes before each of its answers."""

    sample: Sample
    echo: Piece = NOTHING


@dataclass(frozen=True, slots=True)
class Call:
    caller: Caller
    model: NamedModel
    text: ModelText
    asked: Asked
    form: Form
    prompts: Sequence[Prompted]
    is_echo_only: bool = False
    """The one token that the sampler makes at least is not to be shown."""

    def answer_text(self) -> AnswerText:
        return AnswerText(self.text, self.asked.params.stop_strings)

    def place_of(self, prompt: int, number: int) -> int:
        """A choice's index in the answer."""
        return prompt * self.asked.num_samples + number

    def count(self, usage: Usage, sample: Sample, sampled: Sampled) -> None:
        usage.prompt_tokens += len(sample.prompt)
        usage.cached_tokens += sampled.prompt_cache_hit_tokens
        if not self.is_echo_only:
            usage.completion_tokens += sum(len(one.tokens) for one in sampled.sequences)


async def answer(request: Request, call: Call) -> Response:
    """Raises UserError or ServiceError, or ClientDisconnect when there is nobody to answer."""
    front = front_of(request)
    with front.waiting.seat(call.caller.owner):
        requests = await submit(front, call, [prompt.sample for prompt in call.prompts])
        leaving = asyncio.create_task(_until_left(request))
        waiting = asyncio.create_task(_results(front, call.caller, requests))
        try:
            await asyncio.wait({leaving, waiting}, return_when=asyncio.FIRST_COMPLETED)
            if not waiting.done():
                raise ClientDisconnect
            return JSONResponse(await in_thread(_whole, call, waiting.result()))
        except BaseException:
            await call_off(front, call.caller, requests)
            raise
        finally:
            leaving.cancel()
            waiting.cancel()


async def _until_left(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass


async def _results(front: Front, caller: Caller, requests: Sequence[str]) -> list[Sampled]:
    return [await result_of(front, caller, request_id) for request_id in requests]


async def submit(front: Front, call: Call, samples: Sequence[Sample]) -> list[str]:
    """Raises UserError or ServiceError."""
    return await in_thread(
        front.service.model_samplers.submit,
        call.caller,
        call.model,
        samples,
        seed=call.asked.seed,
    )


async def call_off(front: Front, caller: Caller, requests: Sequence[str]) -> None:
    """Nobody wants these any more; what is finished stays as it is. Not to be interrupted, as it is
    called when something else was."""
    with CancelScope(shield=True):
        for request_id in requests:
            await in_thread(front.service.futures.cancel, caller, request_id)


async def result_of(front: Front, caller: Caller, request_id: str) -> Sampled:
    """Wait for it, however long it takes. Raises UserError or ServiceError."""
    outcome = None
    while outcome is None:
        outcome = await front.service.futures.wait(caller, request_id, front.poll_hold_s)
    if isinstance(outcome, Failed):
        raise error_of(outcome)
    assert isinstance(outcome, Succeeded) and isinstance(outcome.result, Sampled)
    return outcome.result


def _whole(call: Call, results: Sequence[Sampled]) -> dict[str, Any]:
    usage, choices = Usage(), []
    for index, (prompt, sampled) in enumerate(zip(call.prompts, results, strict=True)):
        call.count(usage, prompt.sample, sampled)
        echo = _scored_echo(prompt, sampled)
        for number, sequence in enumerate(sampled.sequences):
            rest = NOTHING
            if not call.is_echo_only:
                rest = shifted(rest_of(call.answer_text(), sequence, 0), len(echo.text))
            piece = Piece(echo.text + rest.text, echo.tokens + rest.tokens)
            place, reason = call.place_of(index, number), REASONS[sequence.stop_reason]
            choices.append(call.form.whole(place, piece, reason))
    return call.form.envelope(call.asked.model, is_streamed=False).around(choices, usage)


def rest_of(text: AnswerText, sequence: SampledSequence, start: int) -> Piece:
    """The answer from its token number `start` on, to the end."""
    top = _top_rows(sequence.topk, len(sequence.tokens))
    pieces = [
        text.add(int(sequence.tokens[i]), float(sequence.logprobs[i]), top[i])
        for i in range(start, len(sequence.tokens))
    ]
    pieces.append(text.finish())
    return Piece(
        "".join(piece.text for piece in pieces),
        tuple(token for piece in pieces for token in piece.tokens),
    )


def shifted(piece: Piece, num_chars: int) -> Piece:
    """The piece behind so much other text."""
    moved = tuple(replace(one, start=one.start + num_chars) for one in piece.tokens)
    return Piece(piece.text, moved)


def _scored_echo(prompt: Prompted, sampled: Sampled) -> Piece:
    """The prompt with its logprobs, if they were asked for. Nothing scores its first token."""
    if sampled.prompt_logprobs is None:
        return prompt.echo
    top = _top_rows(sampled.topk_prompt_logprobs, len(sampled.prompt_logprobs))
    logprobs = sampled.prompt_logprobs.tolist()
    scored = [
        replace(one, logprob=logprobs[i], top=top[i]) if i else one
        for i, one in enumerate(prompt.echo.tokens)
    ]
    return Piece(prompt.echo.text, tuple(scored))


def _top_rows(topk: TopK | None, length: int) -> list[tuple[tuple[int, float], ...]]:
    if topk is None:
        return [()] * length
    rows = zip(topk.token_ids.tolist(), topk.logprobs.tolist(), strict=True)
    return [tuple(zip(ids, logprobs, strict=True)) for ids, logprobs in rows]
