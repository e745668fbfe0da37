"""A run is calibrated on held-out mail, and its weights carry what came of it."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
from mailroom.decision.calibration import calibrated
from mailroom.decision.model import find_model, open_predictor
from mailroom.training.plan import PRESETS
from mailroom.training.run import Trained, train
from mailroom.training.run_directory import RunDirectory

PLAN = replace(PRESETS["tiny"], num_examples=400, num_epochs=1, rank=16)


@pytest.fixture(scope="module")
def said() -> list[str]:
    return []


@pytest.fixture(scope="module")
def run(service, corpus, said, tmp_path_factory) -> tuple[Trained, RunDirectory]:
    directory = RunDirectory(tmp_path_factory.mktemp("confidence"))
    trained = train(
        service, corpus.train, corpus.taxonomy, PLAN, directory, corpus="builtin",
        corpus_digest=corpus.digest, base_model=PLAN.base_model,
        held_out=corpus.held_out(PLAN.num_examples), say=said.append,
    )  # fmt: skip
    return trained, directory


def test_the_temperature_is_told_kept_and_found_again(service, corpus, run, said):
    trained, directory = run

    state = directory.load()
    model = find_model(
        service, trained.model, base_model=PLAN.base_model, taxonomy=None, say=said.append
    )

    assert trained.temperature != 1.0
    assert any(f"temperature {trained.temperature:.2f}" in line for line in said)
    assert state is not None and state.temperature == trained.temperature == model.temperature
    assert model.base().temperature == 1.0
    other = replace(corpus.taxonomy, name="other")
    assert (
        find_model(
            service, trained.model, base_model=PLAN.base_model, taxonomy=other, say=said.append
        ).temperature
        == 1.0
    )


def test_predictions_are_calibrated_by_it(service, corpus, run, said):
    trained, _ = run
    model = find_model(
        service, trained.model, base_model=PLAN.base_model, taxonomy=None, say=said.append
    )
    messages = [example.message for example in corpus.test[:4]]

    with service.session() as session:
        sure, raw = (
            open_predictor(service, session, one, writes=False).predict(messages)
            for one in (model, replace(model, temperature=1.0))
        )

    for one, other in zip(sure, raw, strict=True):
        expected = calibrated(other.probabilities, trained.temperature)
        assert one.probabilities == pytest.approx(expected, abs=1e-5)


def test_without_held_out_mail_the_confidence_stays_and_that_is_said(service, corpus, tmp_path):
    said: list[str] = []

    trained = train(
        service, corpus.train, corpus.taxonomy, replace(PLAN, num_examples=4),
        RunDirectory(tmp_path), corpus="builtin", corpus_digest=corpus.digest,
        base_model=PLAN.base_model, held_out=corpus.validation[:20], say=said.append,
    )  # fmt: skip

    assert trained.temperature == 1.0
    assert any("20 held-out mails are too few" in line for line in said)


def test_evaluation_tells_confidence_and_whether_guessing_changed_a_text(
    mailroom, corpus, run, tmp_path
):
    trained, _ = run
    page = tmp_path / "report.html"

    ended = mailroom(
        "evaluate", "--corpus", str(corpus.directory), "--model", trained.model, "--limit", "12",
        "--compare-free", "--report", str(page), "--json",
    )  # fmt: skip

    assert ended.code == 0, ended.err
    before, after = ended.document["before"], ended.document["after"]
    assert after["same_as_free"] == 1.0 and before["same_as_free"] is None
    assert before["mean_given"] == 0.0 and after["mean_given"] > 1.0
    assert after["confidence"]["temperature"] == trained.temperature
    assert before["confidence"]["temperature"] == 1.0
    for name in ("ece", "brier", "ece_uncalibrated", "brier_uncalibrated"):
        assert 0.0 <= after["confidence"][name] <= 2.0
    assert "How sure it may be" in page.read_text()


def test_free_generation_can_be_asked_for(mailroom, corpus, run):
    trained, _ = run
    told = [
        json.loads(
            mailroom(
                "evaluate", "--corpus", str(corpus.directory), "--model", trained.model,
                "--limit", "6", *options, "--json",
            ).out
        )["after"]
        for options in ([], ["--free"])
    ]  # fmt: skip

    guessed, free = ({k: one[k] for k in ("format", "category", "mean_tokens")} for one in told)
    assert guessed == free
    assert told[1]["mean_given"] == 0.0
