"""Several requests for each message, many messages at once: whoever has an answer goes on.

A conversation is a generator that yields what it waits for, an SDK future, and is sent what that
came to. What it returns is its result.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Generator, Iterable, Iterator
from concurrent.futures import Future
from typing import Any, Generic, TypeVar

from mailroom.service.connect import Promise, Wait

T = TypeVar("T")
Conversation = Generator[Promise[Any], Any, T]


def in_order(conversations: Iterable[Conversation[T]], wait: Wait, num_at_once: int) -> Iterator[T]:
    """Their results in their order, or the error of the first that fails, when it is its turn.

    Args:
        conversations: are begun as there is room for them.
        num_at_once: how many may be under way, those included whose result waits for its turn.
    """
    coming = iter(conversations)
    begun: deque[_Begun[T]] = deque()
    bell = _Bell()
    while True:
        while len(begun) < num_at_once and (one := next(coming, None)) is not None:
            begun.append(_Begun(one, bell))
        if not begun:
            return
        bell.rearm()  # before looking round, so that no answer comes unheard
        for one in begun:
            one.go_on()
        if not begun[0].is_over:
            wait(bell)
        while begun and begun[0].is_over:
            yield begun.popleft().result()


def result_of(conversation: Conversation[T], wait: Wait) -> T:
    """What one conversation comes to."""
    (result,) = in_order([conversation], wait, 1)
    return result


class _Bell:
    """Rings when any of the futures it hangs on is done. A promise itself, so that waiting for it
    is waiting as for everything else."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._rung: Future[None] = Future()

    def future(self) -> Future[None]:
        return self._rung

    def hang_on(self, future: Future[Any]) -> None:
        future.add_done_callback(self._ring)

    def rearm(self) -> None:
        with self._lock:
            if self._rung.done():
                self._rung = Future()

    def _ring(self, _: Future[Any]) -> None:
        with self._lock:
            if not self._rung.done():
                self._rung.set_result(None)


class _Begun(Generic[T]):
    """A conversation under way."""

    def __init__(self, conversation: Conversation[T], bell: _Bell) -> None:
        self._conversation = conversation
        self._bell = bell
        self._awaited: Future[Any] | None = None
        self._outcome: Future[T] = Future()
        self._step()

    @property
    def is_over(self) -> bool:
        return self._outcome.done()

    def result(self) -> T:
        return self._outcome.result()

    def go_on(self) -> None:
        """As far as it goes without waiting."""
        while not self.is_over and self._awaited is not None and self._awaited.done():
            self._step()

    def _step(self) -> None:
        try:
            promise = self._next_promise()
        except StopIteration as end:
            self._outcome.set_result(end.value)
        except Exception as error:
            self._outcome.set_exception(error)  # told when it is its turn
        else:
            self._awaited = promise.future()
            self._bell.hang_on(self._awaited)

    def _next_promise(self) -> Promise[Any]:
        if self._awaited is None:
            return next(self._conversation)
        if error := self._awaited.exception():
            return self._conversation.throw(error)
        return self._conversation.send(self._awaited.result())
