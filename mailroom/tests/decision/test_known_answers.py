import pytest
from mailroom.decision.known_answers import KnownAnswers
from mailroom.mail.message import Message
from mailroom.prompt.form import render_answer
from mailroom.prompt.tokens import completion_ids
from mailroom.taxonomy import Taxonomy
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

TAXONOMY = Taxonomy.load("default")
LUNCH = Message(subject="Lunch?", body="Shall we have lunch on Friday?")
RANKING = ["personal", "spam", "updates"]


@pytest.fixture(scope="module")
def tokenizer() -> PreTrainedTokenizerFast:
    """A token for each byte."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    backend = Tokenizer(models.BPE({char: n for n, char in enumerate(["<end>", *alphabet])}, []))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    backend.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(tokenizer_object=backend, eos_token="<end>")


@pytest.fixture(scope="module")
def answers(tokenizer) -> KnownAnswers:
    return KnownAnswers(TAXONOMY, tokenizer)


def ids(text: str, tokenizer) -> list[int]:
    return tokenizer.encode(text, add_special_tokens=False)


def answer_text(category: str, message: Message) -> str:
    return render_answer(TAXONOMY, TAXONOMY.answer(category, message))


def test_the_first_guess_is_what_training_teaches_for_the_likeliest_category(answers, tokenizer):
    guess = answers.guess([], LUNCH, RANKING)

    assert list(guess) == completion_ids(answer_text("personal", LUNCH), tokenizer)


def test_an_answer_of_another_rule_is_gone_on_with(answers, tokenizer):
    other = answer_text("personal", Message(subject="Draft", body="Please review it."))
    beginning = other[: other.index("Look at what") + 4]

    guess = answers.guess(ids(beginning, tokenizer), LUNCH, RANKING)

    assert beginning + tokenizer.decode(guess[:-1]) == other


def test_a_less_likely_category_is_gone_on_with_if_the_answer_began_so(answers, tokenizer):
    beginning = "Step 1: Classification → Sp"

    guess = answers.guess(ids(beginning, tokenizer), LUNCH, RANKING)

    assert beginning + tokenizer.decode(guess[:-1]) == answer_text("spam", LUNCH)


def test_a_mixture_goes_on_as_the_answer_that_its_end_is_from(answers, tokenizer):
    mixed = "Step 1: Classification → Personal\nStep 2: Priority → High\nStep 3: Suggested "
    mixed += "actions → Delete or"

    guess = answers.guess(ids(mixed, tokenizer), LUNCH, RANKING)

    assert tokenizer.decode(guess[:-1]) == answer_text("spam", LUNCH).partition("Delete or")[2]


def test_what_is_like_no_answer_is_not_guessed(answers, tokenizer):
    assert answers.guess(ids("I cannot help with that #", tokenizer), LUNCH, RANKING) == ()
    assert answers.guess([], LUNCH, []) == ()
