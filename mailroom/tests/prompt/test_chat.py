"""Prompts: the base model's own layout, the message as data in it, within its budget."""

from __future__ import annotations

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from mailroom.mail.message import Message
from mailroom.prompt.chat import PromptError, prompt_text, render_prompt
from mailroom.prompt.plain_text import control_tokens, encode_plain
from mailroom.taxonomy import Taxonomy

TAXONOMY = Taxonomy.load("default")
PLAIN = Message(subject="Lunch on Friday?", body="Shall we meet at 12:30?\n\nLaura")
CONTROLS = (
    *("<|im_start|>", "<|im_end|>", "<|endoftext|>", "<think>", "</think>"),
    *("<|bos|>", "<|start|>", "<|end|>", "<|eot|>", "<s>", "</s>", "<unk>"),
)
texts = st.text(st.characters(exclude_categories=("Cs", "Cc")), max_size=40)
hostile = st.lists(
    st.sampled_from([*CONTROLS, "\n", "\r\n", "\u2028", "> ", "assistant", " ", "<|im_", "end|>"])
    | texts,
    max_size=12,
).map("".join)
same_tokenizer = settings(
    suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=60
)


def controls_in(ids, tokenizer):
    wanted = set(control_tokens(tokenizer).values())
    return [i for i in ids if i in wanted]


def test_the_prompt_says_what_it_must(family):
    text = family.decode(render_prompt(PLAIN, family, TAXONOMY))
    assert "You are an efficient admin assistant" in text
    assert "Analyze this incoming email step-by-step" in text
    assert "> Subject: Lunch on Friday?\n> Shall we meet at 12:30?\n> Laura" in text


def test_the_chat_template_lays_it_out(chatml):
    text = chatml.decode(render_prompt(PLAIN, chatml, TAXONOMY))
    assert text.startswith("<|im_start|>system\nYou are an efficient admin assistant")
    assert "<|im_end|>\n<|im_start|>user\nAnalyze this incoming email" in text
    assert text.endswith("Laura<|im_end|>\n<|im_start|>assistant\n<think>\n\n</think>\n\n")


def test_a_template_without_a_system_turn_gets_the_instruction_in_the_users(with_bos):
    text = with_bos.decode(render_prompt(PLAIN, with_bos, TAXONOMY))
    assert text.startswith("<|bos|><|start|>user<|end|>\n\nYou are an efficient admin assistant")
    assert text.endswith("<|eot|><|start|>assistant<|end|>\n\n")


def test_a_template_that_drops_the_system_turn_gets_it_in_the_users(chatml):
    template = chatml.chat_template
    try:
        chatml.chat_template = (
            "{% for m in messages if m.role == 'user' %}{{ m.content }}{% endfor %}"
        )
        text = chatml.decode(render_prompt(PLAIN, chatml, TAXONOMY))
        assert text.startswith("You are an efficient admin assistant")
        chatml.chat_template = "nothing of yours"
        with pytest.raises(PromptError, match="chat template"):
            render_prompt(PLAIN, chatml, TAXONOMY)
    finally:
        chatml.chat_template = template


def test_a_template_cannot_bring_in_todays_date(chatml):
    template = chatml.chat_template
    try:
        chatml.chat_template = (
            "{{ strftime_now('%d %b %Y') }} {{ date_string }} {{ messages[-1].content }}"
        )
        text = chatml.decode(render_prompt(PLAIN, chatml, TAXONOMY))
        assert text.startswith("26 Jul 2024 26 Jul 2024 You are")
    finally:
        chatml.chat_template = template


def test_without_a_chat_template_the_layout_is_plain(unigram):
    ids = render_prompt(PLAIN, unigram, TAXONOMY)
    assert ids == unigram(prompt_text(PLAIN, TAXONOMY))["input_ids"][:-1]  # less its EOS


def test_bos_stands_once_and_first(with_bos, unigram):
    for tokenizer in (with_bos, unigram):
        ids = render_prompt(PLAIN, tokenizer, TAXONOMY)
        assert ids[0] == tokenizer.bos_token_id
        assert ids.count(tokenizer.bos_token_id) == 1


def test_categories_are_named_where_the_taxonomy_asks_for_it(chatml):
    asking = Taxonomy.from_toml("name_in_prompt = true\n" + TAXONOMY.to_toml())
    names = "Categories: Forum, Personal, Promotions, Social_media, Spam, Updates, Verify_code."
    assert names in chatml.decode(render_prompt(PLAIN, chatml, asking))
    assert names not in chatml.decode(render_prompt(PLAIN, chatml, TAXONOMY))


def test_only_subject_and_body_reach_the_prompt(family):
    with_headers = Message(PLAIN.subject, PLAIN.body, "a@b.example", "c@d.example", "today", "<1>")
    assert render_prompt(with_headers, family, TAXONOMY) == render_prompt(PLAIN, family, TAXONOMY)


@same_tokenizer
@given(subject=hostile, body=hostile)
def test_no_mail_can_write_a_control_token(family, subject, body):
    ids = render_prompt(Message(subject, body), family, TAXONOMY, 2000)
    assert controls_in(ids, family) == controls_in(render_prompt(PLAIN, family, TAXONOMY), family)


@same_tokenizer
@given(subject=hostile, body=hostile)
def test_no_mail_can_step_out_of_the_quotation(chatml, subject, body):
    text = chatml.decode(render_prompt(Message(subject, body), chatml, TAXONOMY, 2000))
    head, _, rest = text.partition("step-by-step.\n\n")
    quotation = rest.removesuffix("<|im_end|>\n<|im_start|>assistant\n<think>\n\n</think>\n\n")
    assert quotation != rest and head.count("<|im_start|>") == 2
    assert all(line.startswith("> ") for line in quotation.split("\n"))
    said = "".join(f"{subject} {body}".split())
    assert "".join(quotation.replace("\n> ", "").removeprefix("> Subject:").split()) == said


@given(text=hostile)
@same_tokenizer
def test_plain_encoding_holds_no_control_token_and_loses_no_text(family, text):
    ids = encode_plain(text, family)
    assert not controls_in(ids, family)
    if family.unk_token is None:
        assert family.decode(ids) == text


def test_a_control_token_that_normalisation_makes_is_text_too(chatml):
    from mailroom.prompt import chat
    from tokenizers import normalizers

    before = chatml.backend_tokenizer.normalizer
    chatml.backend_tokenizer.normalizer = normalizers.NFKC()
    chat._frame.cache_clear()
    try:
        wide = Message("a", "\uff1cthink\uff1e <\uff5cim_end\uff5c>")
        ids = render_prompt(wide, chatml, TAXONOMY)
        plain = render_prompt(PLAIN, chatml, TAXONOMY)
        assert controls_in(ids, chatml) == controls_in(plain, chatml)
    finally:
        chatml.backend_tokenizer.normalizer = before
        chat._frame.cache_clear()


REPLY = Message(
    subject="Re: Lunch on Friday?",
    body=(
        "Friday suits me, see you there.\n\n-- \nLaura Fischer\nNorthwind, Oslo\n\n"
        "On Thu, 3 Oct 2024, Tom\n<tom@home.example> wrote:\n> Lunch on Friday?\n> Tom\n"
    ),
)


def shortened(message, tokenizer, saved):
    """The text of a prompt whose budget is `saved` tokens short of the whole message."""
    whole = len(render_prompt(message, tokenizer, TAXONOMY, 2000))
    ids = render_prompt(message, tokenizer, TAXONOMY, whole - saved)
    assert len(ids) <= whole - saved
    return tokenizer.decode(ids)


def test_a_message_within_its_budget_is_whole(family):
    text = shortened(REPLY, family, 0)
    assert "> > Lunch on Friday?" in text and "Laura" in text and "wrote:" in text


def test_quoted_replies_go_first(family):
    text = shortened(REPLY, family, 1)
    assert "> > " not in text and "wrote:" not in text and "Tom" not in text
    assert "Laura Fischer" in text and "Friday suits me" in text


def test_the_signature_goes_next(family):
    whole = len(render_prompt(REPLY, family, TAXONOMY, 2000))
    without = len(
        render_prompt(Message(REPLY.subject, REPLY.body.split("On Thu")[0]), family, TAXONOMY)
    )
    text = shortened(REPLY, family, whole - without + 1)
    assert "Laura Fischer" not in text and "Oslo" not in text
    assert "> Friday suits me, see you there." in text


def test_the_end_of_the_body_goes_before_the_subject(family):
    long = Message("Lunch on Friday?", "first " + "word " * 5000 + "last")
    text = family.decode(render_prompt(long, family, TAXONOMY, 300))
    assert "> Subject: Lunch on Friday?\n> first word" in text
    assert "last" not in text and "word [...]" in text


def test_a_forward_that_is_all_quotation_is_kept():
    from mailroom.prompt.quote import without_old_text

    body = "> Old news\n> for you"
    assert list(without_old_text(body)) == [body, body]


@pytest.mark.parametrize(
    "old",
    [
        "-----Original Message-----\nFrom: Tom\nOld",
        "________________________________\nFrom: Tom\nOld",
        "Am 3. Oktober schrieb Tom:\n> Old",
        "On 3 October Tom wrote:",
    ],
)
def test_old_messages_are_recognised(old):
    from mailroom.prompt.quote import without_old_text

    assert next(without_old_text(f"New text.\n\n{old}")) == "New text."


@pytest.mark.parametrize("size", [0, 1, 50, 3_000, 300_000])
@pytest.mark.parametrize("unit", ["word ", "x", "\n", "漢", "<|im_end|>", "> quoted\n"])
def test_the_budget_holds_whatever_the_message(family, unit, size):
    for message in (Message("a", unit * size), Message(unit * size, "b")):
        assert len(render_prompt(message, family, TAXONOMY, 200)) <= 200


def test_most_of_the_budget_is_used(chatml):
    ids = render_prompt(Message("a", "word " * 5000), chatml, TAXONOMY, 300)
    assert 290 <= len(ids) <= 300


def test_a_budget_without_room_is_refused_with_the_least_that_works(family):
    with pytest.raises(PromptError, match=r"20 tokens has no room.*at least \d+") as caught:
        render_prompt(PLAIN, family, TAXONOMY, 20)
    least = int(str(caught.value).split("at least ")[1].split(",")[0])
    assert len(render_prompt(Message("word " * 99, "x"), family, TAXONOMY, least)) <= least
    with pytest.raises(PromptError):
        render_prompt(PLAIN, family, TAXONOMY, least - 1)


def test_an_empty_message_is_a_prompt(family):
    assert "> Subject:" in family.decode(render_prompt(Message("", ""), family, TAXONOMY))
