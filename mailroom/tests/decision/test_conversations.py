from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import Future

import pytest
from mailroom.decision.conversations import Conversation, in_order
from mailroom.service.connect import sdk_wait


class Question(Future[str]):
    """A future as the SDK gives them: `future()` is what one waits for."""

    def future(self) -> Future[str]:
        return self


def answered(text: str) -> Question:
    question = Question()
    question.set_result(text)
    return question


def asking(*questions: Question) -> Conversation[str]:
    said = []
    for question in questions:
        said.append((yield question))
    return " ".join(said)


def test_results_come_in_the_order_of_the_conversations():
    late, soon = Question(), answered("soon")
    found = in_order([asking(late), asking(soon, soon)], waiting_for(late), 2)

    assert list(found) == ["late", "soon soon"]


def waiting_for(*questions: Question):
    """A way of waiting that answers one more question each time."""
    left = iter(questions)

    def wait(promise):
        next(left).set_result("late")
        return sdk_wait(promise)

    return wait


def test_a_later_conversation_goes_on_while_the_first_waits():
    first, second, third = Question(), Question(), Question()
    conversations = [asking(first), asking(second, third)]

    # Asked after the second question has been answered; by then the first has not.
    assert list(in_order(conversations, waiting_for(second, third, first), 2)) == [
        "late",
        "late late",
    ]


def test_only_so_many_are_begun_at_once():
    begun: list[int] = []

    def one(number: int) -> Conversation[int]:
        begun.append(number)
        yield answered("")
        return number

    found = in_order((one(number) for number in range(10)), sdk_wait, 3)

    assert next(found) == 0
    assert begun == [0, 1, 2]
    assert list(found) == list(range(1, 10))


def test_an_error_is_told_when_it_is_its_turn_and_a_conversation_may_take_it():
    refused = Question()
    refused.set_exception(ValueError("refused"))

    def forgiving() -> Conversation[str]:
        try:
            return (yield refused)
        except ValueError as error:
            return str(error)

    found: Iterator[str] = in_order(
        [forgiving(), asking(answered("fine")), asking(refused), asking(answered("never"))],
        sdk_wait,
        4,
    )

    assert [next(found), next(found)] == ["refused", "fine"]
    with pytest.raises(ValueError, match="refused"):
        next(found)
