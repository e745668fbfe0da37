"""The four-step form: what is rendered is read back, and nothing else is."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from mailroom.mail.message import Message
from mailroom.prompt.form import category_prefix, parse_answer, render_answer
from mailroom.taxonomy import NO_RESPONSE, PRIORITIES, Answer, Taxonomy, TaxonomyError

TAXONOMY = Taxonomy.load("default")
BREAKS = "\n\r\x0b\x0c\x1c\x1d\x1e\x85\u2028\u2029"

lines = st.text(
    st.characters(exclude_categories=("Cs",), exclude_characters=BREAKS), min_size=1, max_size=60
).map(str.strip)
actions = lines.map(lambda text: text.replace(";", ",")).filter(bool)
drafts = lines.filter(lambda text: bool(text) and not text.startswith(NO_RESPONSE))
answers = st.builds(
    Answer,
    category=st.sampled_from(TAXONOMY.keys),
    priority=st.sampled_from(PRIORITIES),
    actions=st.lists(actions, min_size=1, max_size=4).map(tuple),
    draft=st.none() | drafts,
)

GOOD = render_answer(
    TAXONOMY, Answer("verify_code", "High", ("Use the code", "do not share it"), "Thank you.")
)


@given(answers)
def test_a_rendered_answer_reads_back(answer):
    assert parse_answer(render_answer(TAXONOMY, answer), TAXONOMY) == answer


@given(answers)
def test_a_rendered_answer_is_four_lines_that_begin_as_the_form_says(answer):
    found = render_answer(TAXONOMY, answer).split("\n")
    assert [line.split(" → ", 1)[0] for line in found] == [
        "Step 1: Classification",
        "Step 2: Priority",
        "Step 3: Suggested actions",
        "Step 4: Drafted response",
    ]


@given(answers, st.data())
def test_lines_missing_doubled_or_out_of_order_are_refused(answer, data):
    found = render_answer(TAXONOMY, answer).split("\n")
    order = data.draw(st.lists(st.integers(0, 3), max_size=6).filter(lambda o: o != [0, 1, 2, 3]))
    assert parse_answer("\n".join(found[n] for n in order), TAXONOMY) is None


@given(answers, st.text(min_size=1, max_size=5), st.booleans())
def test_text_before_or_a_line_after_is_refused(answer, extra, before):
    text = render_answer(TAXONOMY, answer)
    assert parse_answer(f"{extra}{text}" if before else f"{text}\n{extra}", TAXONOMY) is None


@given(answers, st.data())
def test_no_character_of_what_the_form_fixes_can_be_left_out(answer, data):
    found = render_answer(TAXONOMY, answer).split("\n")
    n = data.draw(st.integers(0, 3))
    fixed = found[n].index("→") + 2
    at = data.draw(st.integers(0, fixed - 1))
    found[n] = found[n][:at] + found[n][at + 1 :]
    assert parse_answer("\n".join(found), TAXONOMY) is None


@given(answers, st.sampled_from(BREAKS), st.data())
def test_a_line_break_inside_a_value_is_refused(answer, line_break, data):
    text = render_answer(TAXONOMY, answer)
    at = data.draw(st.integers(0, len(text)))
    assert parse_answer(text[:at] + line_break + text[at:], TAXONOMY) is None


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("Verify_code", "verify_code"),
        ("Verify_code", "Verify code"),
        ("Verify_code", "Verify_code."),
        ("Verify_code", "Verify_codes"),
        ("Verify_code", "Unknown"),
        ("Verify_code", ""),
        ("High", "high"),
        ("High", "Urgent"),
        ("High", "High "),
        ("→", "->"),
        (" → ", "→"),
        (" → ", ":  → "),
        ("Step 2", " Step 2"),
        ("Step 2", "step 2"),
        ("Step 2", "**Step 2**"),
        ("Use the code; do", "Use the code;do"),
        ("Use the code; do", "Use the code;  do"),
        ("Use the code; do", "; do"),
        ("share it", "share it;"),
        ("share it", "share it; "),
        ("Thank you.", ""),
        ("Thank you.", "Thank you. "),
        ("Thank you.", "Thank you.\n"),
        ("\nStep 3", "\n\nStep 3"),
        ("\n", "\r\n"),
    ],
)
def test_small_deviations_are_refused(old, new):
    assert parse_answer(GOOD, TAXONOMY) is not None
    assert old in GOOD
    assert parse_answer(GOOD.replace(old, new), TAXONOMY) is None


@pytest.mark.parametrize("text", ["", "\n\n\n", "Spam", GOOD + "\n", "\n" + GOOD, GOOD * 2])
def test_other_texts_are_refused(text):
    assert parse_answer(text, TAXONOMY) is None


def test_a_wrong_priority_is_still_the_form():
    answer = parse_answer(GOOD.replace("High", "Low"), TAXONOMY)
    assert answer is not None and answer.priority == "Low"


def test_a_category_of_another_taxonomy_is_refused():
    personal = render_answer(TAXONOMY, TAXONOMY.answer("personal", Message("Hello", "You")))
    assert parse_answer(personal, TAXONOMY) is not None
    assert parse_answer(personal, Taxonomy.load("reference")) is None


def test_no_response_required_reads_as_no_draft():
    spam = TAXONOMY.answer("spam", Message("Win", "Money"))
    assert spam.draft is None
    parsed = parse_answer(render_answer(TAXONOMY, spam), TAXONOMY)
    assert parsed == spam


@pytest.mark.parametrize(
    "answer",
    [
        Answer("spam", "Low", (), None),
        Answer("spam", "Low", ("a; b",), None),
        Answer("spam", "Low", ("a",), "two\nlines"),
        Answer("spam", "Low", ("a",), ""),
        Answer("spam", "Low", ("a",), "No response required, I think."),
        Answer("spam", "Urgent", ("a",), None),  # pyright: ignore[reportArgumentType]
    ],
)
def test_an_answer_that_would_break_the_form_is_not_rendered(answer):
    with pytest.raises(ValueError, match="four-step form"):
        render_answer(TAXONOMY, answer)


def test_an_answer_of_an_unknown_category_is_not_rendered():
    with pytest.raises(TaxonomyError, match="'invoice'"):
        render_answer(TAXONOMY, Answer("invoice", "Low", ("a",), None))


def test_category_prefixes_start_their_answers_and_no_others():
    prefixes = [category_prefix(category) for category in TAXONOMY.categories]
    for category in TAXONOMY.categories:
        text = render_answer(TAXONOMY, TAXONOMY.answer(category.key, Message("a", "b")))
        assert [text.startswith(prefix) for prefix in prefixes] == [
            other is category for other in TAXONOMY.categories
        ]
