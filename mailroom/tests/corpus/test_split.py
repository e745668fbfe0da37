"""Near-duplicates, and parts that share none."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from mailroom.corpus.example import Example
from mailroom.corpus.masking import group_of, mask
from mailroom.corpus.split import (
    disagreements,
    draw_test,
    groups_of,
    mark_apart,
    outside,
)
from mailroom.mail.message import Message


def example(group: str, category: str = "spam", subject: str = "", body: str = "") -> Example:
    return Example(Message(subject, body), category, "", group, 1)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("Your code is 123456", "Your code is 77"),
        ("Use WELCOME20 today", "Use SAVEBIG today"),
        ("Use code AB-12x now", "Use code ZZ9 now"),
        ("See https://a.example/x?y=1", "See https://b.example/long/path"),
        ("See shop.com/99.", "See other-shop.co.uk"),
        ("Write to a.b@c.example", "Write to z@y.example"),
        ("Save $50 on $1,000", "Save $5 on $20.50"),
        ("Hello,  World!", "hello world"),
    ],
)
def test_digits_codes_and_urls_make_no_difference(one, other):
    assert mask(one) == mask(other)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("Your code is 1", "Your order is 1"),
        ("BUY NOW, THE LAST CHANCE", "WIN BIG, SEND MONEY TODAY"),
        ("Lunch on Friday", "Lunch on Monday"),
    ],
)
def test_words_make_a_difference(one, other):
    assert mask(one) != mask(other)


def test_the_group_is_of_the_whole_text():
    assert group_of("Code 1", "Use it") == group_of("Code 2", "Use it.")
    assert group_of("Code 1", "Use it") != group_of("Code 1", "Use them")
    assert group_of("A b", "c") == group_of("A", "b c")


rows = st.lists(
    st.tuples(st.integers(0, 40), st.sampled_from(["spam", "forum", "updates"])), max_size=120
).map(lambda pairs: [example(str(group), category) for group, category in pairs])


@given(rows, st.integers(1, 60), st.integers(0, 3))
def test_no_group_stands_on_both_sides_and_no_row_is_lost(examples, num_test, seed):
    test = draw_test(examples, num_test, seed, leave_one=True)
    train = outside(examples, groups_of(test))
    assert not groups_of(train) & groups_of(test)
    assert len(train) + len(test) == len(examples)
    assert len(test) <= num_test
    assert {e.group for e in examples if e.category == "spam"} <= groups_of(train) | groups_of(test)


def test_each_category_has_its_share_on_both_sides():
    examples = [example(f"s{n}", "spam") for n in range(300)]
    examples += [example(f"f{n}", "forum") for n in range(100)]
    test = draw_test(examples, 80, 0, leave_one=True)
    assert sum(e.category == "spam" for e in test) == 60
    assert sum(e.category == "forum" for e in test) == 20


def test_the_last_group_of_a_category_stays_for_training():
    examples = [example("rare", "forum"), *(example(f"s{n}") for n in range(9))]
    for seed in range(5):
        assert "rare" not in groups_of(draw_test(examples, 9, seed, leave_one=True))
        assert "rare" in groups_of(draw_test(examples, 10, seed, leave_one=False))


def test_a_draw_follows_its_seed():
    examples = [example(f"s{n}") for n in range(50)]
    drawn = [draw_test(examples, 10, seed, leave_one=True) for seed in (0, 0, 1)]
    assert drawn[0] == drawn[1] != drawn[2]


def test_rows_are_apart_when_training_knows_neither_half():
    train = [example("a", subject="Your code 1", body="Enter it")]
    test = [
        example("b", subject="Your code 2", body="Other text"),
        example("c", subject="Other", body="enter it!"),
        example("d", subject="Other", body="Other text"),
        example("e", subject="", body="Other text"),
    ]
    assert [e.apart for e in mark_apart(test, train)] == [False, False, True, True]


def test_an_empty_half_is_not_something_training_knows():
    train = [example("a", subject="", body="Enter it")]
    assert mark_apart([example("b", subject="", body="Other")], train)[0].apart


def test_groups_with_two_labels_are_counted():
    assert disagreements([example("a"), example("a", "forum"), example("b"), example("b")]) == 1
