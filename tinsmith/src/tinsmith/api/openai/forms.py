"""Answers as OpenAI's two APIs spell them: whole ones, and the chunks of streams."""

from __future__ import annotations

import time
import uuid
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from tinsmith.api.openai.growing_text import Piece, ScoredToken
from tinsmith.api.openai.model_text import ModelText
from tinsmith.api.openai.tool_calls import TextWithCalls

LEAST_LOGPROB = -9999.0


@dataclass(slots=True)
class Usage:
    prompt_tokens: int = 0
    completion_tokens: int = 0
    cached_tokens: int = 0

    def to_json(self) -> dict[str, Any]:
        return {
            "prompt_tokens": self.prompt_tokens,
            "completion_tokens": self.completion_tokens,
            "total_tokens": self.prompt_tokens + self.completion_tokens,
            "prompt_tokens_details": {"cached_tokens": self.cached_tokens},
        }


@dataclass(frozen=True, slots=True)
class Envelope:
    """What is around the choices of an answer, and of every chunk of a stream alike."""

    model: str
    object: str
    prefix: str
    created: int = field(default_factory=lambda: int(time.time()))
    number: str = field(default_factory=lambda: uuid.uuid4().hex)

    def around(self, choices: list[dict[str, Any]], usage: Usage | None) -> dict[str, Any]:
        return {
            "id": f"{self.prefix}-{self.number}",
            "object": self.object,
            "created": self.created,
            "model": self.model,
            "choices": choices,
            "usage": None if usage is None else usage.to_json(),
        }


def _finite(logprob: float | None) -> float | None:
    """JSON has no infinity: what is impossible is as unlikely as OpenAI's least likely."""
    return None if logprob is None else max(logprob, LEAST_LOGPROB)


class Form(Protocol):
    """One of the two APIs. `has_logprobs` says whether they were asked for."""

    def envelope(self, model: str, *, is_streamed: bool) -> Envelope: ...

    def whole(self, index: int, piece: Piece, reason: str) -> dict[str, Any]:
        """A finished choice."""
        ...

    def opening(self, index: int) -> dict[str, Any] | None:
        """What a choice's stream begins with, if with anything."""
        ...

    def chunk(self, index: int, piece: Piece, reason: str | None) -> dict[str, Any]:
        """The next part of a choice; with a reason, the last one."""
        ...


class CompletionForm:
    def __init__(self, text: ModelText, *, has_logprobs: bool) -> None:
        self._text = text
        self._has_logprobs = has_logprobs

    def envelope(self, model: str, *, is_streamed: bool) -> Envelope:
        return Envelope(model, "text_completion", "cmpl")

    def whole(self, index: int, piece: Piece, reason: str) -> dict[str, Any]:
        return self.chunk(index, piece, reason)

    def opening(self, index: int) -> None:
        return None

    def chunk(self, index: int, piece: Piece, reason: str | None) -> dict[str, Any]:
        return {
            "index": index,
            "text": piece.text,
            "logprobs": self._logprobs(piece.tokens) if self._has_logprobs else None,
            "finish_reason": reason,
        }

    def _logprobs(self, tokens: Sequence[ScoredToken]) -> dict[str, Any]:
        return {
            "tokens": [self._name(one.token) for one in tokens],
            "token_logprobs": [_finite(one.logprob) for one in tokens],
            "top_logprobs": [
                {self._name(token): _finite(logprob) for token, logprob in one.top}
                if one.top
                else None
                for one in tokens
            ],
            "text_offset": [one.start for one in tokens],
        }

    def _name(self, token: int) -> str:
        """Its text; parts of characters are told by their bytes, since these name entries."""
        data = self._text.bytes_of(token)
        try:
            return data.decode()
        except UnicodeDecodeError:
            return "bytes:" + "".join(f"\\x{byte:02x}" for byte in data)


class ChatForm:
    def __init__(
        self, text: ModelText, *, has_logprobs: bool, may_call_tools: bool = False
    ) -> None:
        """`may_call_tools`: look for calls in the answers."""
        self._text = text
        self._has_logprobs = has_logprobs
        self._may_call_tools = may_call_tools
        self._answers: dict[int, TextWithCalls] = {}
        """Choices whose calls are looked for."""

    def envelope(self, model: str, *, is_streamed: bool) -> Envelope:
        kind = "chat.completion.chunk" if is_streamed else "chat.completion"
        return Envelope(model, kind, "chatcmpl")

    def whole(self, index: int, piece: Piece, reason: str) -> dict[str, Any]:
        message = {"role": "assistant", "content": piece.text, "refusal": None}
        text, calls, end = self._take(index, piece.text, reason)
        if calls:
            message |= {"content": text or None, "tool_calls": [call for _, call in calls]}
        return {
            "index": index,
            "message": message,
            "logprobs": self._logprobs(piece.tokens),
            "finish_reason": end,
        }

    def opening(self, index: int) -> dict[str, Any]:
        delta = {"role": "assistant", "content": ""}
        return {"index": index, "delta": delta, "logprobs": None, "finish_reason": None}

    def chunk(self, index: int, piece: Piece, reason: str | None) -> dict[str, Any]:
        text, calls, end = self._take(index, piece.text, reason)
        delta: dict[str, Any] = {"content": text} if text else {}
        if calls:
            delta["tool_calls"] = [{"index": number, **call} for number, call in calls]
        return {
            "index": index,
            "delta": delta,
            "logprobs": self._logprobs(piece.tokens) if piece.tokens else None,
            "finish_reason": end,
        }

    def _take(
        self, index: int, text: str, reason: str | None
    ) -> tuple[str, list[tuple[int, dict[str, Any]]], str | None]:
        """The text without calls, the calls with their numbers, and why the choice ended."""
        if not self._may_call_tools:
            return text, [], reason
        answer = self._answers.setdefault(index, TextWithCalls())
        first = answer.num_calls
        text, calls = answer.add(text)
        if reason is not None:
            rest, more = answer.finish()
            text, calls = text + rest, calls + more
            if answer.num_calls and reason == "stop":
                reason = "tool_calls"
        return text, list(enumerate((call.to_json() for call in calls), first)), reason

    def _logprobs(self, tokens: Sequence[ScoredToken]) -> dict[str, Any] | None:
        if not self._has_logprobs:
            return None
        return {"content": [self._scored(one) for one in tokens], "refusal": None}

    def _scored(self, one: ScoredToken) -> dict[str, Any]:
        top = [self._entry(token, logprob) for token, logprob in one.top]
        return {**self._entry(one.token, one.logprob), "top_logprobs": top}

    def _entry(self, token: int, logprob: float | None) -> dict[str, Any]:
        data = self._text.bytes_of(token)
        name = data.decode(errors="replace")
        return {"token": name, "logprob": _finite(logprob), "bytes": list(data)}
