"""Tokens, weights and the shift by one, against a reference written another way."""

from __future__ import annotations

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from mailroom.mail.message import Message
from mailroom.prompt.chat import SYSTEM, TASK, PromptError, render_prompt
from mailroom.prompt.form import render_answer
from mailroom.prompt.tokens import completion_ids, encode_example, join, to_datum
from mailroom.taxonomy import Taxonomy
from tokenizers import Tokenizer, models
from transformers import PreTrainedTokenizerFast

TAXONOMY = Taxonomy.load("default")
words = st.text(st.characters(exclude_categories=("Cs", "Cc", "Zs", "Zl", "Zp")), max_size=12)
sentences = st.lists(words, max_size=15).map(" ".join)
bodies = st.lists(sentences, max_size=5).map("\n".join)


def reference_prompt(subject: str, body: str, tokenizer) -> list[int]:
    """By the library's own calls, from text laid out here."""
    said = ["Subject: " + subject, *body.split("\n")]
    quotation = "\n".join("> " + " ".join(line.split()) for line in said if line.split())
    task = f"{TASK}\n\n{quotation}"
    if tokenizer.chat_template is None:
        return tokenizer(f"{SYSTEM}\n\n{task}\n\nAnswer:\n")["input_ids"][:-1]
    if "no system turn" in tokenizer.chat_template:
        turns = [{"role": "user", "content": f"{SYSTEM}\n\n{task}"}]
    else:
        turns = [{"role": "system", "content": SYSTEM}, {"role": "user", "content": task}]
    return tokenizer.apply_chat_template(
        turns, add_generation_prompt=True, enable_thinking=False, return_dict=False
    )


@settings(
    suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=60
)
@given(subject=sentences, body=bodies, category=st.sampled_from(TAXONOMY.keys))
def test_an_example_equals_the_reference(family, subject, body, category):
    message = Message(subject, body)
    completion = render_answer(TAXONOMY, TAXONOMY.answer(category, message))

    datum = to_datum(encode_example(message, completion, family, TAXONOMY, 4000))

    prompt = reference_prompt(subject, body, family)
    answer = family(completion, add_special_tokens=False)["input_ids"]
    sequence = [*prompt, *answer, family.eos_token_id]
    inputs, targets, weights = [], [], []
    for position in range(1, len(sequence)):
        inputs.append(sequence[position - 1])
        targets.append(sequence[position])
        weights.append(1.0 if position >= len(prompt) else 0.0)
    assert datum.model_input.to_ints() == inputs
    assert list(datum.loss_fn_inputs["target_tokens"].data) == targets
    assert list(datum.loss_fn_inputs["weights"].data) == weights


def test_a_datum_has_the_types_and_shapes_of_the_api(family):
    sequence = join([5, 6, 7], [8, 9])
    datum = to_datum(sequence)
    assert sequence.tokens == (5, 6, 7, 8, 9)
    assert sequence.weights == (0, 0, 0, 1, 1)
    assert sequence.num_weighted == 2
    assert datum.model_input.to_ints() == [5, 6, 7, 8]
    targets, weights = datum.loss_fn_inputs["target_tokens"], datum.loss_fn_inputs["weights"]
    assert (targets.dtype, list(targets.data), targets.shape) == ("int64", [6, 7, 8, 9], [4])
    assert (weights.dtype, list(weights.data), weights.shape) == ("float32", [0, 0, 1, 1], [4])


def test_the_completion_decodes_to_the_form_and_ends_with_eos(family):
    completion = render_answer(TAXONOMY, TAXONOMY.answer("spam", Message("a", "b")))
    ids = completion_ids(completion, family)
    assert ids[-1] == family.eos_token_id
    assert ids.count(family.eos_token_id) == 1
    assert family.bos_token_id is None or family.bos_token_id not in ids
    assert family.decode(ids[:-1]) == completion


def test_prompt_and_completion_are_the_sequence_that_triage_would_continue(family):
    message = Message("Your parcel", "It was shipped today.")
    completion = render_answer(TAXONOMY, TAXONOMY.answer("updates", message))
    sequence = encode_example(message, completion, family, TAXONOMY)
    prompt = render_prompt(message, family, TAXONOMY)
    assert list(sequence.tokens[: len(prompt)]) == prompt
    assert sequence.num_weighted == len(sequence.tokens) - len(prompt)


def test_an_answer_that_the_tokenizer_cannot_write_is_refused(unigram):
    with pytest.raises(PromptError, match="cannot write '漢'"):
        completion_ids("Step 1: 漢", unigram)


def test_a_tokenizer_without_eos_is_refused():
    bare = PreTrainedTokenizerFast(tokenizer_object=Tokenizer(models.BPE()))
    with pytest.raises(PromptError, match="no EOS"):
        completion_ids("Step 1", bare)
