from mailroom.corpus.example import Example
from mailroom.evaluation.baselines import score_baselines
from mailroom.mail.message import Message


def example(category: str, text: str, *, apart: bool = False) -> Example:
    return Example(Message(subject="", body=text), category, "", text, 1, apart)


TRAIN = [
    *(example("verify_code", f"your code is {n}") for n in range(10)),
    *(example("promotions", f"big sale {n} percent off") for n in range(10)),
]
PRIORITIES = {"verify_code": "High", "promotions": "Low"}


def test_word_counts_tell_mails_apart_that_share_their_words():
    test = [
        example("verify_code", "here is your code", apart=True),
        example("promotions", "another big sale today"),
    ]

    found = score_baselines(TRAIN, test, PRIORITIES)

    assert set(found) == {"tfidf", "naive_bayes"}
    for baseline in found.values():
        assert baseline.scores.category == 1.0 and baseline.scores.format is None
        assert baseline.scores.priority == 1.0, "which follows from the category"
        assert baseline.apart is not None and baseline.apart.examples == 1


def test_nothing_can_be_learned_from_one_category():
    assert score_baselines(TRAIN[:10], TRAIN, PRIORITIES) == {}
