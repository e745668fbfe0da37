"""Taxonomies: the two that ship, reading files of one's own, and what each message gets."""

from __future__ import annotations

import pytest
from mailroom.mail.message import Message
from mailroom.prompt.form import render_answer
from mailroom.taxonomy import PRIORITIES, Taxonomy, TaxonomyError

SIX = {"forum", "promotions", "social_media", "spam", "updates", "verify_code"}
ANY = Message(subject="Hello", body="Nothing in particular.")

OWN = """
name = "office"
[categories.invoice]
priority = "High"
actions = ["Pay"]
[[categories.invoice.rules]]
when = ["paid*", "thank  you"]
actions = ["File"]
[categories.mail_to_me]
name = "Mail to me"
description = "Ordinary mail."
priority = "Medium"
actions = ["Read", "answer"]
draft = "I will answer \\"soon\\"."
"""


def test_the_default_has_the_reference_six_and_personal():
    assert set(Taxonomy.load("reference").keys) == SIX
    assert set(Taxonomy.load("default").keys) == SIX | {"personal"}


def test_both_agree_on_the_six():
    default, reference = Taxonomy.load("default"), Taxonomy.load("reference")
    for category in reference.categories:
        assert default.category(category.key) == category


@pytest.mark.parametrize("name", ["default", "reference"])
def test_priorities_are_those_of_the_write_up(name):
    taxonomy = Taxonomy.load(name)
    wanted = {"verify_code": "High", "updates": "Medium", "spam": "Low", "promotions": "Low"}
    assert {key: taxonomy.category(key).priority for key in wanted} == wanted


@pytest.mark.parametrize(
    "message", [ANY, Message("Reset your password", "Your invoice and code: 123456")]
)
def test_spam_reads_exactly_as_in_the_write_up(message):
    for name in ("default", "reference"):
        taxonomy = Taxonomy.load(name)
        assert render_answer(taxonomy, taxonomy.answer("spam", message)) == (
            "Step 1: Classification → Spam\n"
            "Step 2: Priority → Low\n"
            "Step 3: Suggested actions → Delete or mark as spam; no reply needed\n"
            "Step 4: Drafted response → No response required. Marking as spam/promotion."
        )


def test_only_personal_mail_gets_a_draft():
    taxonomy = Taxonomy.load("default")
    with_draft = {key for key in taxonomy.keys if taxonomy.answer(key, ANY).draft is not None}
    assert with_draft == {"personal"}


def test_content_changes_actions_within_a_category():
    taxonomy = Taxonomy.load("default")
    parcel = Message("Your parcel", "It was shipped today.")
    bill = Message("Your invoice", "The amount is due on Friday.")
    answers = [taxonomy.answer("updates", message) for message in (ANY, parcel, bill)]
    assert len({answer.actions for answer in answers}) == 3
    assert {answer.priority for answer in answers} == {"Medium"}


def test_content_changes_the_draft():
    taxonomy = Taxonomy.load("default")
    invitation = taxonomy.answer("personal", Message("Lunch?", "On Friday?"))
    assert invitation.draft != taxonomy.answer("personal", ANY).draft


def test_patterns_match_whole_words_phrases_and_stems():
    taxonomy = Taxonomy.from_toml(OWN)
    filed = ("File",)
    for text, actions in (
        ("It was PAID.", filed),
        ("prepaid", ("Pay",)),
        ("paidup", filed),
        ("Thank\nyou!", filed),
        ("thank youth", ("Pay",)),
    ):
        assert taxonomy.answer("invoice", Message("x", text)).actions == actions, text


def test_a_file_of_ones_own_is_read(tmp_path):
    path = tmp_path / "office.toml"
    path.write_text(OWN, "utf-8")
    taxonomy = Taxonomy.load(path)
    assert taxonomy.names == ("Invoice", "Mail to me")
    assert taxonomy.answer("mail_to_me", ANY).draft == 'I will answer "soon".'


@pytest.mark.parametrize("name", ["default", "reference"])
def test_toml_text_round_trips_and_keeps_the_digest(name):
    taxonomy = Taxonomy.load(name)
    again = Taxonomy.from_toml(taxonomy.to_toml())
    assert again == taxonomy
    assert again.digest == taxonomy.digest
    assert len(taxonomy.to_toml()) < 4096  # it travels in the metadata of a run


def test_odd_characters_survive_the_round_trip():
    text = OWN.replace('"Pay"', '"Tab\\there, \\\\ \\u0001 \\u007f \\"é\\" 漢 😀"')
    taxonomy = Taxonomy.from_toml(text)
    assert Taxonomy.from_toml(taxonomy.to_toml()) == taxonomy


def test_comments_do_not_change_the_digest_but_words_do():
    taxonomy = Taxonomy.from_toml(OWN)
    assert Taxonomy.from_toml("# mine\n" + OWN).digest == taxonomy.digest
    assert Taxonomy.from_toml(OWN.replace("Pay", "Pay now")).digest != taxonomy.digest
    assert Taxonomy.from_toml("name_in_prompt = true\n" + OWN).digest != taxonomy.digest


def test_lookups_by_key_name_and_label():
    taxonomy = Taxonomy.load("default")
    verify = taxonomy.category("verify_code")
    assert taxonomy.named("Verify_code") is verify
    assert taxonomy.named("verify_code") is None
    for label in ("verify_code", "Verify_code", "VERIFY CODE", "verify-code"):
        assert taxonomy.find(label) is verify
    assert taxonomy.find("verifycode") is None


def test_an_unknown_key_names_the_nearest():
    with pytest.raises(TaxonomyError, match=r"'span'.*mean 'spam'"):
        Taxonomy.load("default").category("span")


def test_an_unknown_name_says_what_there_is():
    with pytest.raises(TaxonomyError, match=r"'defualt'.*default, reference"):
        Taxonomy.load("defualt")


def test_a_file_that_is_not_text_is_refused(tmp_path):
    path = tmp_path / "bytes.toml"
    path.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(TaxonomyError, match=r"Cannot read.*bytes\.toml"):
        Taxonomy.load(path)


@pytest.mark.parametrize(
    ("old", "new", "complaint"),
    [
        ('name = "office"', "name = ", "not valid TOML"),
        ('name = "office"', 'title = "office"', r"unknown key 'title'.*Known are name"),
        ('name = "office"', "name_in_prompt = 1", "name_in_prompt is true or false"),
        ('priority = "High"', 'prority = "High"', "'prority'; did you mean 'priority'"),
        ('priority = "High"', 'priority = "high"', "'high'; allowed are High, Medium, Low"),
        ('priority = "High"', "", "priority is None"),
        ('["Pay"]', '["Pay; file"]', "'Pay; file' holds a ';'"),
        ('["Pay"]', '["Pay\\nnow"]', "one line"),
        ('["Pay"]', '["Pay\\u2028now"]', "one line"),
        ('["Pay"]', "[]", "at least one text"),
        ('["Pay"]', '"Pay"', "at least one text"),
        ('["Pay"]', "[3]", "not 3"),
        ('["Pay"]', '[" Pay"]', "begins or ends with a space"),
        ('"paid*"', '"pa*id"', r"a \* elsewhere"),
        ('"paid*"', '"*"', r"a \* elsewhere"),
        ('actions = ["File"]', "", "changes nothing"),
        ("when = [", "if = [", "'if'; did you mean"),
        ("[categories.mail_to_me]", "[categories.invoice]", "not valid TOML"),
        ('name = "Mail to me"', 'name = "Invoice"', "share the name 'Invoice'"),
        ('name = "Mail to me"', 'name = "mail"', "upper-case letter"),
        ("[categories.mail_to_me]", "[categories.Mail]", "lower-case letters"),
        ('draft = "I', 'draft = "No response required. I', "cannot begin with"),
        ('draft = "I', 'no_response = "I', "must begin with 'No response required'"),
    ],
)
def test_a_wrong_file_is_refused_by_name(old, new, complaint):
    assert old in OWN
    with pytest.raises(TaxonomyError, match=complaint) as caught:
        Taxonomy.from_toml(OWN.replace(old, new, 1), source="office.toml")
    assert "office.toml" in str(caught.value)


@pytest.mark.parametrize("text", ["", 'name = "x"', "categories = 3", "[categories]"])
def test_a_file_without_categories_is_refused(text):
    with pytest.raises(TaxonomyError, match="no categories"):
        Taxonomy.from_toml(text)


def test_one_category_is_too_few():
    with pytest.raises(TaxonomyError, match="at least two"):
        Taxonomy.from_toml('[categories.a]\npriority = "Low"\nactions = ["Read"]')


def test_every_shipped_priority_is_one_of_the_three():
    priorities = {category.priority for category in Taxonomy.load("default").categories}
    assert priorities == set(PRIORITIES)
