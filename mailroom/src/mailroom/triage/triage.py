"""Messages from a source, each with a decision or the reason why there is none, in their order."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Literal, Protocol

from mailroom.decision.policy import Decision, decide
from mailroom.decision.prediction import Prediction
from mailroom.mail.message import Message, UnreadableMessageError
from mailroom.mail.parse import parse
from mailroom.sources.raw_message import RawMessage
from mailroom.taxonomy import Taxonomy

Status = Literal["decided", "left", "unreadable"]


class Predicts(Protocol):
    """What triage needs of a predictor: `decision.predictor.Predictor` is one."""

    def stream(self, messages: Iterable[Message]) -> Iterator[Prediction]:
        """One prediction for each message, in order. It may take messages ahead of giving
        predictions, but only a bounded number."""
        ...


@dataclass(frozen=True, slots=True)
class TriagedMessage:
    """What became of one message. Exactly one of `decision` and `error` is set."""

    index: int
    """Its place in the source, from 0."""
    origin: str
    message: Message | None
    """None if it could not be read."""
    decision: Decision | None
    error: str | None = None
    """Why it could not be read."""

    @property
    def status(self) -> Status:
        if self.decision is None:
            return "unreadable"
        return "decided" if self.decision.is_decided else "left"


def triage(
    raw_messages: Iterable[RawMessage],
    predictor: Predicts,
    taxonomy: Taxonomy,
    *,
    threshold: float = 0.0,
) -> Iterator[TriagedMessage]:
    """Each message once, in the source's order, as soon as it and those before it are ready.

    Only as many messages are in memory as the predictor takes ahead. What the predictor raises
    ends it; the messages given out before stand.

    Args:
        threshold: smallest confidence to decide on, 0 to 1; below it the message is left.
    """
    waiting: deque[tuple[int, str, Message | str]] = deque()
    # (index, origin, message or why there is none): the bytes are let go as soon as they are read

    def readable() -> Iterator[Message]:
        """Messages for the predictor; every message, unreadable ones too, queues up on the way."""
        for raw_message in raw_messages:
            read = _read(raw_message)
            waiting.append((raw_message.index, raw_message.origin, read))
            if isinstance(read, Message):
                yield read

    for prediction in predictor.stream(readable()):
        while True:
            index, origin, read = waiting.popleft()
            if isinstance(read, Message):
                decision = decide(prediction, read, taxonomy, threshold)
                yield TriagedMessage(index, origin, read, decision)
                break
            yield TriagedMessage(index, origin, None, None, error=read)
    for index, origin, read in waiting:
        assert isinstance(read, str), "the predictor gave fewer predictions than it took messages"
        yield TriagedMessage(index, origin, None, None, error=read)


def _read(raw_message: RawMessage) -> Message | str:
    """The message, or why it cannot be read."""
    if raw_message.error is not None:
        return raw_message.error
    try:
        return parse(raw_message.raw)
    except UnreadableMessageError as error:
        return str(error)
