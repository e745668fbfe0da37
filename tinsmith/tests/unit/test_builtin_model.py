"""The base model that ships inside the package, and the text it was trained on."""

from __future__ import annotations

import importlib
import json
import re
from itertools import islice
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tinsmith.base_models import BUILTIN_DIRECTORY
from transformers import AutoModelForCausalLM, AutoTokenizer

REPOSITORY = Path(__file__).parents[3]
SPECIAL = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
FOUR_STEPS = re.compile(r"step \d+: ?\w+[^\n]*→|classification →", re.IGNORECASE)


@pytest.fixture(scope="module")
def tokenizer():
    return AutoTokenizer.from_pretrained(BUILTIN_DIRECTORY)


@pytest.fixture(scope="module")
def model():
    return AutoModelForCausalLM.from_pretrained(BUILTIN_DIRECTORY, dtype=torch.float32).eval()


@pytest.fixture
def corpus(monkeypatch):
    """The generator of the pre-training text; it stands beside the distributions."""
    monkeypatch.syspath_prepend(str(REPOSITORY))
    return importlib.import_module("pretraining.corpus")


@pytest.fixture
def grammar(corpus):
    return corpus.Grammar.load()


def test_the_folder_is_small_enough_to_ship():
    sizes = {path.name: path.stat().st_size for path in BUILTIN_DIRECTORY.iterdir()}

    assert sum(sizes.values()) < 6_000_000
    assert sizes["tokenizer.json"] < 250_000
    assert {"README.md", "config.json", "generation_config.json", "model.safetensors"} <= set(sizes)


def test_the_model_card_names_licence_and_training_text():
    card = (BUILTIN_DIRECTORY / "README.md").read_text(encoding="utf-8")

    assert "license: apache-2.0" in card
    assert "generated" in card
    assert "python -m pretraining.pretrain" in card


def test_it_is_a_small_qwen3_that_shares_its_embeddings(model, tokenizer):
    assert model.config.model_type == "qwen3"
    assert model.config.tie_word_embeddings
    assert 1_000_000 < model.num_parameters() < 3_000_000
    assert model.config.vocab_size == len(tokenizer)


def test_all_weights_are_finite(model):
    assert all(weight.isfinite().all() for weight in model.parameters())


@settings(max_examples=200, deadline=None)
@given(text=st.text())
def test_any_text_survives_the_tokenizer(tokenizer, text):
    ids = tokenizer.encode(text, add_special_tokens=False, split_special_tokens=True)

    assert tokenizer.decode(ids) == text


def test_no_token_is_added_that_the_text_does_not_have(tokenizer):
    assert tokenizer("Hello").input_ids == tokenizer("Hello", add_special_tokens=False).input_ids


@pytest.mark.parametrize("token", SPECIAL)
def test_a_control_token_in_a_mail_can_be_read_as_text(tokenizer, token):
    control = tokenizer.convert_tokens_to_ids(token)

    assert tokenizer.encode(token) == [control]
    assert control not in tokenizer.encode(f"a {token} b", split_special_tokens=True)


def test_a_turn_ends_where_generation_stops(model, tokenizer):
    ends = [tokenizer.convert_tokens_to_ids(t) for t in ("<|im_end|>", "<|endoftext|>")]

    assert tokenizer.eos_token == "<|im_end|>"
    assert tokenizer.pad_token == "<|endoftext|>"
    assert tokenizer.bos_token is None
    assert model.generation_config.eos_token_id == ends
    assert model.config.eos_token_id == ends[0]


def test_the_chat_template_marks_each_turn(tokenizer):
    messages = [{"role": "system", "content": "Be short."}, {"role": "user", "content": "Hi\n"}]

    text = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)

    assert text == (
        "<|im_start|>system\nBe short.<|im_end|>\n"
        "<|im_start|>user\nHi\n<|im_end|>\n<|im_start|>assistant\n"
    )


@torch.no_grad()
def test_it_tells_a_login_code_from_a_parcel(model, tokenizer):
    def sender(text: str) -> str:
        messages = [{"role": "user", "content": f"Who is the sender?\n\n{text}"}]
        ids = tokenizer.apply_chat_template(
            messages, add_generation_prompt=True, return_tensors="pt", return_dict=False
        )
        answer = model.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=12)
        return tokenizer.decode(answer[0, ids.shape[1] :], skip_special_tokens=True).lower()

    assert "login" in sender("Your code is 445566. Enter it to log in. Do not share it.")
    assert "delivery" in sender("Your parcel is out for delivery. The courier comes at noon.")


def test_the_corpus_follows_its_seed_alone(corpus, grammar):
    def texts(seed: int) -> list[str]:
        return [document.text for document in islice(corpus.documents(grammar, seed), 200)]

    assert texts(3) == texts(3)
    assert texts(3) != texts(4)


def test_the_corpus_never_shows_the_four_step_form(corpus, grammar):
    texts = [document.text for document in islice(corpus.documents(grammar, 5), 5000)]

    assert not [text for text in texts if FOUR_STEPS.search(text)]
    assert FOUR_STEPS.search("Step 1: Classification → Spam")


def test_the_documents_are_rendered_as_the_chat_template_has_them(corpus, tokenizer):
    tasks = importlib.import_module("pretraining.tasks")
    exchanges = (tasks.Exchange("Hi", "Yes"), tasks.Exchange("Why?", "So"))

    messages = [
        {"role": "system", "content": "Be short."},
        {"role": "user", "content": "Hi"},
        {"role": "assistant", "content": "Yes"},
        {"role": "user", "content": "Why?"},
        {"role": "assistant", "content": "So"},
    ]
    expected = tokenizer.apply_chat_template(messages, tokenize=False)
    assert corpus.rendered(tasks.Chat("Be short.", exchanges)).text + "\n" == expected


def test_the_special_tokens_stand_first_in_the_vocabulary():
    stored = json.loads((BUILTIN_DIRECTORY / "tokenizer.json").read_text(encoding="utf-8"))

    assert [(t["id"], t["content"]) for t in stored["added_tokens"]] == list(enumerate(SPECIAL))


def test_a_phrase_with_an_open_bracket_is_refused(corpus):
    module = importlib.import_module("pretraining.grammar")

    with pytest.raises(ValueError, match="left open"):
        module.parse("[a|b")
