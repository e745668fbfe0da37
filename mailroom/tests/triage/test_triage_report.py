from __future__ import annotations

import io

from mailroom.decision.policy import Decision
from mailroom.mail.message import Message
from mailroom.prompt.form import parse_answer
from mailroom.taxonomy import Answer, Taxonomy
from mailroom.triage.report import Summary, as_json, human_text, print_human
from mailroom.triage.triage import TriagedMessage

TAXONOMY = Taxonomy.load("reference")
MESSAGE = Message(subject="You won", body="words", sender="Ann <ann@example.org>")
SPAM = TAXONOMY.answer("spam", MESSAGE)
DECIDED = TriagedMessage(0, "box#1", MESSAGE, Decision(SPAM, 0.987, "The model's own answer."))
LEFT = TriagedMessage(
    1, "box#2", Message("", "words"), Decision(None, 0.41, "Spam is only 41% sure.")
)
UNREADABLE = TriagedMessage(2, "box#3", None, None, "the message is empty")


def test_a_decision_shows_the_four_steps_at_the_start_of_their_lines():
    lines = human_text(DECIDED, TAXONOMY).splitlines()

    assert lines[0] == "[0] Ann <ann@example.org> | You won"
    assert parse_answer("\n".join(lines[1:5]), TAXONOMY) == SPAM
    assert lines[5:] == ["Confidence: 0.99. The model's own answer."]


def test_what_is_left_or_unreadable_says_why_and_shows_no_steps():
    assert human_text(LEFT, TAXONOMY) == (
        "[1] (no sender) | (no subject)\nLeft to you: Spam is only 41% sure.\n"
    )
    assert (
        human_text(UNREADABLE, TAXONOMY) == "[2] box#3\nCould not be read: the message is empty.\n"
    )


def test_the_printout_ends_with_counts_and_that_nothing_was_changed():
    out = io.StringIO()

    summary = print_human([DECIDED, LEFT, UNREADABLE, DECIDED], TAXONOMY, out)

    assert summary == Summary(decided=2, left=1, unreadable=1)
    assert out.getvalue().endswith(
        "\n\n4 read   2 decided   1 left to you   1 unreadable\nNothing was changed.\n"
    )
    assert out.getvalue().count("Step 1: ") == 2


def test_control_characters_of_a_mail_or_a_model_do_not_reach_the_terminal():
    answer = Answer("forum", "Low", ("Read \x1b[2J",), "Hello\x1b]0;x\x07 you")
    sender = Message(subject="a\x1b[31m", body="", sender="b\x07\nStep 1: Classification")
    nasty = TriagedMessage(0, "box\x1b\udcff#1", sender, Decision(answer, None, "Scored."))

    shown = human_text(nasty, TAXONOMY)

    assert not any(ord(c) < 32 and c != "\n" for c in shown)
    assert shown.count("\nStep 1: Classification") == 1
    assert "Confidence: not scored. Scored." in shown
    str(as_json([nasty])["messages"][0]["origin"]).encode()


def test_long_subjects_and_senders_are_cut():
    message = Message(subject="s" * 500, body="", sender="a" * 500)
    first = human_text(TriagedMessage(0, "x", message, LEFT.decision), TAXONOMY).splitlines()[0]

    assert first == f"[0] {'a' * 60} | {'s' * 100}"
