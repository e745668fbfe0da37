"""An answer's text while its tokens come in: only what will not change is let out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from tinsmith.api.openai.model_text import ModelText

UNDECODED = "\N{REPLACEMENT CHARACTER}"


class GrowingText:
    """Tokens -> text that only grows.

    A character may be spread over several tokens; until the last of them it decodes to a
    replacement character, so text that ends in one waits. Only the tokens since the last place
    where the text was whole are decoded, and with them those of the step before, since some
    tokenizers treat the first token of a text differently.
    """

    def __init__(self, text: ModelText) -> None:
        self._text = text
        self._window: list[int] = []
        self._num_known = 0
        """Tokens at the window's start whose text was given out."""
        self._known = ""

    def add(self, token: int) -> str:
        """The text that is certain now and was not before."""
        self._window.append(token)
        whole = self._text.decode(self._window)
        if len(whole) <= len(self._known) or whole.endswith(UNDECODED):
            return ""
        fresh = whole[len(self._known) :]
        self._window = self._window[self._num_known :]
        self._num_known = len(self._window)
        self._known = self._text.decode(self._window)
        return fresh

    def rest(self) -> str:
        """What is left at the end: half characters come out as replacement characters."""
        return self._text.decode(self._window)[len(self._known) :]


@dataclass(frozen=True, slots=True)
class ScoredToken:
    """A token of an answer and where its text begins."""

    token: int
    logprob: float | None
    top: tuple[tuple[int, float], ...]
    start: int


@dataclass(frozen=True, slots=True)
class Piece:
    """The next part of an answer."""

    text: str
    tokens: tuple[ScoredToken, ...]


class AnswerText:
    """One answer: text and its tokens, up to the first stop."""

    def __init__(self, text: ModelText, stops: Sequence[str]) -> None:
        self._growing = GrowingText(text)
        self._eos_ids = text.eos_ids
        self._stops = tuple(stops)
        self._whole = ""
        self._num_sent = 0
        self._waiting: list[ScoredToken] = []
        self._is_ended = self._is_cut = False

    def add(self, token: int, logprob: float, top: Sequence[tuple[int, float]] = ()) -> Piece:
        """Take in the next token."""
        if self._is_ended or token in self._eos_ids:
            self._is_ended = True
            return Piece("", ())
        self._waiting.append(ScoredToken(token, logprob, tuple(top), len(self._whole)))
        return self._grow(self._growing.add(token))

    def finish(self) -> Piece:
        """What was held back; to be called once, after the last token."""
        last = Piece("", ()) if self._is_cut else self._grow(self._growing.rest())
        if self._is_cut:
            return last
        text = self._whole[self._num_sent :]
        self._num_sent = len(self._whole)
        tokens, self._waiting = tuple(self._waiting), []
        return Piece(last.text + text, last.tokens + tokens)

    def _grow(self, fresh: str) -> Piece:
        searched_from = max(0, len(self._whole) - max(map(len, self._stops), default=0))
        self._whole += fresh
        found = [self._whole.find(stop, searched_from) for stop in self._stops]
        found = [place for place in found if place >= 0]
        if found:
            self._is_ended = self._is_cut = True
            self._whole = self._whole[: min(found)]
            self._waiting = [token for token in self._waiting if token.start < len(self._whole)]
        safe = len(self._whole) - (0 if found else self._held_back())
        text, self._num_sent = self._whole[self._num_sent : safe], max(self._num_sent, safe)
        # A token leaves when text beyond its beginning has: one that turns out to be part of a
        # stop must not have been shown.
        tokens = tuple(token for token in self._waiting if token.start < self._num_sent)
        self._waiting = self._waiting[len(tokens) :]
        return Piece(text, tokens)

    def _held_back(self) -> int:
        """How many characters at the end may be the beginning of a stop string."""
        for length in range(max(map(len, self._stops), default=1) - 1, 0, -1):
            end = self._whole[-length:]
            if len(end) == length and any(stop.startswith(end) for stop in self._stops):
                return length
        return 0
