"""Answers that are guessed and checked are the greedy ones, whatever a model has learned."""

from __future__ import annotations

import http.client
import json
import threading
from collections.abc import Iterator
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import urlsplit

import pytest
from mailroom.corpus.build import build
from mailroom.corpus.corpus import Corpus
from mailroom.decision.model import BASE, Model, open_predictor
from mailroom.decision.prediction import Prediction
from mailroom.service.connect import Service
from mailroom.taxonomy import Taxonomy
from mailroom.training.plan import PRESETS
from mailroom.training.run import train
from mailroom.training.run_directory import RunDirectory

NUM_MAILS = 40
HOP_BY_HOP = {"connection", "transfer-encoding", "keep-alive", "date", "server"}


@pytest.fixture(scope="module")
def corpus(tmp_path_factory) -> Corpus:
    """Names of several tokens, of which three begin with the same ones."""
    default = Taxonomy.load("default")
    names = {"updates": "Notice_of_order", "spam": "Notice_of_fraud", "forum": "Notice_board"}
    categories = tuple(replace(c, name=names.get(c.key, c.name)) for c in default.categories)
    folder = tmp_path_factory.mktemp("guessed") / "corpus"
    build("builtin", folder, taxonomy=Taxonomy("names", categories))
    return Corpus.load(folder)


def trained_for(num_steps: int, service: Service, corpus: Corpus, folder) -> Model:
    plan = replace(PRESETS["tiny"], num_examples=num_steps * 4, num_epochs=1, rank=16)
    trained = train(
        service, corpus.train, corpus.taxonomy, plan, RunDirectory(folder), corpus="builtin",
        corpus_digest=corpus.digest, base_model=plan.base_model,
    )  # fmt: skip
    return Model(trained.model, plan.base_model, corpus.taxonomy, plan.max_prompt_tokens)


@pytest.fixture(scope="module")
def learned(service, corpus, tmp_path_factory) -> Model:
    return trained_for(100, service, corpus, tmp_path_factory.mktemp("learned"))


@pytest.fixture(scope="module")
def beginner(service, corpus, tmp_path_factory) -> Model:
    """Has seen the form, and does not yet write it."""
    return trained_for(16, service, corpus, tmp_path_factory.mktemp("beginner"))


def predictions(service: Service, model: Model, corpus: Corpus, **options) -> list[Prediction]:
    messages = [example.message for example in corpus.test[:NUM_MAILS]]
    with service.session() as session:
        return open_predictor(service, session, model, **options).predict(messages)


def texts(found: list[Prediction]) -> list[tuple[str, int, bool]]:
    return [(one.text, one.num_tokens, one.stopped) for one in found]


def test_a_model_that_has_learned_the_form_writes_the_same_in_a_fraction_of_the_steps(
    service, learned, corpus
):
    guessed = predictions(service, learned, corpus)
    free = predictions(service, learned, corpus, free=True)

    assert texts(guessed) == texts(free)
    assert sum(one.answer is not None for one in guessed) > NUM_MAILS / 2
    num_tokens = sum(one.num_tokens for one in guessed)
    assert sum(one.num_given for one in guessed) > 0.8 * num_tokens
    assert not any(one.num_given for one in free)
    assert {one.likeliest for one in guessed} > {"updates", "spam", "forum"}
    for one, other in zip(guessed, free, strict=True):
        # Other neighbours in a batch may change an fp32 sum's last digits.
        assert one.probabilities == pytest.approx(other.probabilities, abs=1e-5)


def test_a_model_that_has_not_learned_it_writes_what_it_would_have_written(
    service, beginner, corpus
):
    base = replace(beginner, reference=BASE)
    for model in (base, beginner):
        guessed = predictions(service, model, corpus)

        assert texts(guessed) == texts(predictions(service, model, corpus, free=True))
        assert sum(one.answer is not None for one in guessed) < NUM_MAILS / 2


def test_an_answer_stays_within_its_limit(service, learned, corpus):
    from mailroom.decision.predictor import Predictor

    message = corpus.test[0].message
    with service.session() as session:
        client = service.wait(session.create_sampling_client(model_path=learned.reference))
        for limit in (1, 2, 30):
            guessed, free = (
                Predictor(
                    client, client.get_tokenizer(), corpus.taxonomy, max_new_tokens=limit,
                    free=is_free, wait=service.wait,
                ).predict([message])
                for is_free in (False, True)
            )  # fmt: skip
            assert texts(guessed) == texts(free) and guessed[0].num_tokens == limit


@pytest.fixture
def older_service(service) -> Iterator[tuple[Service, list[str]]]:
    """A service that refuses top-k prompt logprobs, and the paths of what it refused."""
    target = urlsplit(service.url)
    refused: list[str] = []

    class Older(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            if b"topk_prompt_logprobs" in body and json.loads(body)["topk_prompt_logprobs"]:
                refused.append(self.path)
                self.answer(400, [], b'{"detail": "topk_prompt_logprobs is not known here"}')
                return
            upstream = http.client.HTTPConnection(target.hostname or "", target.port, timeout=60)
            upstream.request(self.command, self.path, body, dict(self.headers))
            answer = upstream.getresponse()
            content = answer.read()
            upstream.close()
            self.answer(answer.status, answer.getheaders(), content)

        do_GET = do_POST

        def answer(self, status: int, headers: list[tuple[str, str]], content: bytes) -> None:
            self.send_response(status)
            for name, value in headers:
                if name.lower() not in HOP_BY_HOP | {"content-length"}:
                    self.send_header(name, value)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, format: str, *args: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Older) as proxy:
        proxy.daemon_threads = True
        thread = threading.Thread(target=proxy.serve_forever)
        thread.start()
        yield Service(f"http://127.0.0.1:{proxy.server_port}", service.api_key), refused
        proxy.shutdown()
        thread.join()


def test_a_service_that_does_not_tell_the_likeliest_tokens_generates_them_all(
    service, older_service, learned, corpus
):
    older, refused = older_service
    messages = [example.message for example in corpus.test[:3]]
    with older.session() as session:
        predictor = open_predictor(older, session, learned)
        found = [predictor.predict([message])[0] for message in messages]

    assert len(refused) == 1, "asked again after a refusal"
    assert [one.num_given for one in found] == [0, 0, 0]
    assert texts(found) == texts(predictions(service, learned, corpus, free=True)[:3])
