from __future__ import annotations

import json
from collections.abc import Iterable, Iterator

import pytest
from mailroom.decision.prediction import Prediction
from mailroom.mail.message import Message
from mailroom.prompt.form import parse_answer, render_answer
from mailroom.sources.raw_message import RawMessage
from mailroom.taxonomy import Taxonomy
from mailroom.triage.report import as_json
from mailroom.triage.triage import TriagedMessage, triage

TAXONOMY = Taxonomy.load("default")


class WordPredictor:
    """Predicts by one word of the subject: a category's key, `unsure KEY`, or else no answer.

    Like the real one it takes a few messages ahead of what it gives.
    """

    def __init__(self, num_ahead: int = 3) -> None:
        self._num_ahead = num_ahead
        self.num_taken = 0

    def stream(self, messages: Iterable[Message]) -> Iterator[Prediction]:
        waiting: list[Message] = []
        for message in messages:
            self.num_taken += 1
            waiting.append(message)
            if len(waiting) >= self._num_ahead:
                yield self._predict(waiting.pop(0))
        yield from map(self._predict, waiting)

    def _predict(self, message: Message) -> Prediction:
        *doubt, key = message.subject.split() or [""]
        if key not in TAXONOMY.keys:
            return Prediction("I would rather chat.", None, 6, True)
        answer = TAXONOMY.answer(key, message)
        sure = 0.3 if doubt else 0.9
        return Prediction(render_answer(TAXONOMY, answer), answer, 40, True, {key: sure})


def raw(index: int, subject: str) -> RawMessage:
    text = f"From: ann@example.org\nMessage-ID: <{index}@x>\nSubject: {subject}\n\nwords\n"
    return RawMessage(index, text.encode(), f"box#{index + 1}")


def run(*messages: RawMessage, threshold: float = 0.5) -> list[TriagedMessage]:
    return list(triage(messages, WordPredictor(), TAXONOMY, threshold=threshold))


def test_each_message_ends_once_in_the_source_order_whatever_becomes_of_it():
    messages = [
        RawMessage(0, b"", "box#1"),
        raw(1, "spam"),
        raw(2, "unsure updates"),
        RawMessage(3, b"\x00\x01" * 500, "box#4"),
        RawMessage(4, b"", "box#5", error="cannot read the file: gone"),
        raw(5, "hello there"),
        raw(6, "verify_code"),
        RawMessage(7, b"\n\n", "box#8"),
    ]

    triaged = run(*messages)

    assert [(one.index, one.origin) for one in triaged] == [(m.index, m.origin) for m in messages]
    lost = "unreadable"
    statuses = [lost, "decided", "left", lost, lost, "left", "decided", lost]
    assert [one.status for one in triaged] == statuses
    assert triaged[4].error == "cannot read the file: gone"


@pytest.mark.parametrize("num_unreadable", [0, 1, 5])
def test_a_source_without_readable_messages_is_accounted_for(num_unreadable: int):
    triaged = run(*[RawMessage(n, b"", "x") for n in range(num_unreadable)])

    assert [one.status for one in triaged] == ["unreadable"] * num_unreadable


def test_messages_come_out_before_the_source_is_read_to_its_end():
    num_read = 0

    def source() -> Iterator[RawMessage]:
        nonlocal num_read
        for index in range(1_000):
            num_read += 1
            yield raw(index, "spam") if index % 3 else RawMessage(index, b"", "x")

    triaged = triage(source(), WordPredictor(), TAXONOMY)
    first = [next(triaged) for _ in range(5)]

    assert [one.index for one in first] == [0, 1, 2, 3, 4]
    assert num_read < 20


def test_what_was_given_out_stands_when_the_service_fails():
    class Failing(WordPredictor):
        def stream(self, messages: Iterable[Message]) -> Iterator[Prediction]:
            for number, prediction in enumerate(super().stream(messages)):
                if number == 2:
                    raise ConnectionError("the service is gone")
                yield prediction

    triaged = triage([raw(n, "spam") for n in range(9)], Failing(), TAXONOMY)
    given = [next(triaged), next(triaged)]

    assert [one.status for one in given] == ["decided", "decided"]
    with pytest.raises(ConnectionError):
        next(triaged)


def test_the_json_document_has_every_field_for_every_status():
    document = as_json(run(raw(0, "spam"), raw(1, "unsure spam"), RawMessage(2, b"", "box#3")))

    decided, left, unreadable = json.loads(json.dumps(document))["messages"]
    spam = TAXONOMY.category("spam")
    assert decided == {
        "index": 0,
        "message_id": "<0@x>",
        "origin": "box#1",
        "status": "decided",
        "category": "spam",
        "priority": "Low",
        "actions": list(spam.actions),
        "draft": None,
        "confidence": 0.9,
        "reason": decided["reason"],
        "error": None,
    }
    assert decided["reason"]
    assert left == {**left, "status": "left", "category": None, "priority": None, "actions": []}
    assert left["confidence"] == 0.3 and left["reason"] and left["error"] is None
    assert unreadable == {
        **dict.fromkeys(decided),
        "index": 2,
        "origin": "box#3",
        "status": "unreadable",
        "actions": [],
        "error": "the message is empty",
    }
    assert document["summary"] == {"read": 3, "decided": 1, "left": 1, "unreadable": 1}


def test_a_draft_in_the_json_is_the_text_of_the_fourth_step():
    (personal,) = as_json(run(raw(0, "personal")))["messages"]

    expected = TAXONOMY.answer("personal", Message(subject="personal", body="words"))
    assert expected.draft is not None
    assert personal["draft"] == expected.draft


def test_a_message_without_an_id_says_null():
    (only,) = as_json(run(RawMessage(0, b"Subject: spam\n\nx", "x")))["messages"]

    assert only["message_id"] is None


def test_the_four_steps_of_each_decision_read_back_to_what_the_json_says():
    triaged = run(*[raw(n, key) for n, key in enumerate(TAXONOMY.keys)])

    for one, entry in zip(triaged, as_json(triaged)["messages"], strict=True):
        assert one.decision is not None and one.decision.answer is not None
        answer = parse_answer(render_answer(TAXONOMY, one.decision.answer), TAXONOMY)
        assert answer is not None
        assert (answer.category, answer.priority, list(answer.actions), answer.draft) == (
            entry["category"], entry["priority"], entry["actions"], entry["draft"],
        )  # fmt: skip
