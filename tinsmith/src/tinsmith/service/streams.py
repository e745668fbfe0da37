"""Tokens on their way to those who want to see them before the outcome is there.

They carry no truth: what is missed, or told twice by an engine that had to begin again, is put
right by the outcome.
"""

from __future__ import annotations

import asyncio
import secrets
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class FreshToken:
    """A token that was just generated."""

    number: int
    """Which of the request's samples it belongs to."""
    place: int
    """How many tokens of that sample came before it."""
    token: int
    logprob: float
    top: tuple[tuple[int, float], ...]
    """The likeliest tokens at this place and their logprobs, if asked for."""


class TokenStream:
    """What an event loop hears of one sample request."""

    def __init__(self) -> None:
        self.name = secrets.token_hex(8)
        """For `Sample.stream`."""
        self._loop = asyncio.get_running_loop()
        self._fresh: asyncio.Queue[list[FreshToken]] = asyncio.Queue()

    async def next(self) -> list[FreshToken]:
        """Wait for tokens, of any of the request's samples, in the order of generation."""
        return await self._fresh.get()

    def put(self, tokens: list[FreshToken]) -> None:
        """From any thread."""
        try:
            self._loop.call_soon_threadsafe(self._fresh.put_nowait, tokens)
        except RuntimeError:  # its event loop has closed meanwhile: nobody is there to be told
            return


class Streams:
    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._streams: dict[str, TokenStream] = {}

    @contextmanager
    def open(self) -> Iterator[TokenStream]:
        """A stream under a name of its own, to be opened before the request is submitted."""
        stream = TokenStream()
        with self._lock:
            self._streams[stream.name] = stream
        try:
            yield stream
        finally:
            with self._lock:
                del self._streams[stream.name]

    def deliver(self, told: Sequence[Sequence[Any]]) -> None:
        """What an engine's bell says of its last step: [stream, number, place, token, logprob,
        top] for each token. From any thread; returns at once."""
        by_stream: dict[str, list[FreshToken]] = {}
        for name, number, place, token, logprob, top in told:
            fresh = FreshToken(number, place, token, logprob, tuple((i, p) for i, p in top))
            by_stream.setdefault(name, []).append(fresh)
        with self._lock:
            for name, tokens in by_stream.items():
                stream = self._streams.get(name)
                if stream is not None:  # whoever listened may have left
                    stream.put(tokens)
