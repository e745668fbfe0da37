"""The predictor against a real service: the order, the scores, and what they are compared with."""

from __future__ import annotations

import pytest
from mailroom.decision.conversations import result_of
from mailroom.decision.model import BASE, Model, open_predictor
from mailroom.decision.predictor import Predictor
from mailroom.decision.scorer import Scorer
from mailroom.prompt.chat import render_prompt
from mailroom.prompt.form import category_prefix
from mailroom.prompt.plain_text import encode_plain


@pytest.fixture(scope="module")
def session(service):
    with service.session() as client:
        yield client


@pytest.fixture(scope="module")
def predictor(service, session, corpus) -> Predictor:
    return open_predictor(service, session, Model(BASE, "tinsmith/tiny", corpus.taxonomy, 512))


def test_predictions_come_in_the_order_of_the_messages(predictor, corpus):
    messages = [example.message for example in corpus.test[:5]]

    together = predictor.predict(messages)
    alone = [predictor.predict([message])[0] for message in messages]

    assert [p.text for p in together] == [p.text for p in alone]
    for one, other in zip(together, alone, strict=True):
        # Batch neighbours may change an fp32 sum's last digits.
        assert one.probabilities == pytest.approx(other.probabilities, abs=1e-5)


def test_probabilities_cover_the_taxonomy_and_add_up_to_one(predictor, corpus):
    (prediction,) = predictor.predict([corpus.test[0].message])

    assert tuple(prediction.probabilities) == corpus.taxonomy.keys
    assert sum(prediction.probabilities.values()) == pytest.approx(1.0)


def test_a_score_is_the_logprob_of_the_label_after_the_prompt(service, predictor, corpus):
    """In one request or in many, and by hand: the summed logprobs of the whole first line differ
    between categories by the same amount, as far as they part."""
    import tinker

    client, tokenizer = predictor.client, predictor.tokenizer
    prompt = render_prompt(corpus.test[0].message, tokenizer, corpus.taxonomy)
    at_once = Scorer(client, predictor.candidates)
    one_by_one = Scorer(client, predictor.candidates)
    one_by_one.gives_top_k = False

    first, second = (
        result_of(scorer.score(prompt), service.wait).probabilities
        for scorer in (at_once, one_by_one)
    )

    assert first == pytest.approx(second, abs=1e-5)
    logprobs = {}
    for candidate in predictor.candidates:
        line = encode_plain(category_prefix(corpus.taxonomy.category(candidate.key)), tokenizer)
        assert tuple(line[: len(candidate.tokens)]) == candidate.tokens
        whole = tinker.ModelInput.from_ints([*prompt, *candidate.tokens])
        scores = service.wait(client.compute_logprobs(whole))
        logprobs[candidate.key] = sum(scores[len(prompt) + candidate.num_shared :])
    best = max(logprobs, key=lambda key: logprobs[key])
    assert best == max(first, key=lambda key: first[key])


def test_an_answer_that_is_cut_off_says_so(service, session, corpus):
    model = Model(BASE, "tinsmith/tiny", corpus.taxonomy, 512)
    client = open_predictor(service, session, model, scores=False).client

    short = Predictor(
        client, client.get_tokenizer(), corpus.taxonomy, max_new_tokens=2, scores=False,
        wait=service.wait,
    )  # fmt: skip
    (prediction,) = short.predict([corpus.test[0].message])

    assert prediction.num_tokens == 2 and not prediction.stopped
    assert prediction.probabilities == {}
