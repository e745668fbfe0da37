"""mailroom's answers, guessed and checked, beside generating every token of them.

Both score the categories and write all four steps of the same mails, through SDK and HTTP, with the
adapter that `mailroom train` made of the built-in data. `ours` takes what the taxonomy foretells as
given once the model has confirmed it (docs/decisions/0014-answers-guessed-and-checked.md);
`theirs` is the same with `--free`.

The ways take turns; the best round of each counts, which neighbours disturb least.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rows import row, run, say
from server import KEY, Server

if TYPE_CHECKING:
    from mailroom.corpus.corpus import Corpus
    from mailroom.decision.model import Model
    from mailroom.decision.prediction import Prediction
    from mailroom.mail.message import Message
    from mailroom.service.connect import Service

WAYS = {"ours": False, "theirs": True}
"""Whether every token is generated."""


def options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--mails", type=int, help="all 210 test mails unless --quick")
    parser.add_argument("--singles", type=int, help="mails asked one after another, 20 by default")
    parser.add_argument("--rounds", type=int, help="of each way, 3 by default")
    parser.add_argument("--examples", type=int, help="training mails, 400 by default")
    parser.add_argument("--base-model", metavar="NAME=FOLDER", help="instead of the built-in one")


def measure(options: argparse.Namespace) -> Iterator[dict[str, Any]]:
    from mailroom.config import BUILTIN_BASE_MODEL
    from mailroom.corpus.build import build
    from mailroom.corpus.corpus import Corpus
    from mailroom.service.connect import open_service
    from mailroom.taxonomy import Taxonomy

    wanted = options.base_model or BUILTIN_BASE_MODEL
    arguments = ["--model", options.base_model] if options.base_model else []
    with tempfile.TemporaryDirectory() as folder, Server(*arguments) as server:
        scratch = Path(folder)
        build("builtin", scratch / "corpus", taxonomy=Taxonomy.load("default"))
        corpus = Corpus.load(scratch / "corpus")
        os.environ |= {"TINKER_BASE_URL": server.url, "TINKER_API_KEY": KEY}
        with open_service(scratch, wanted, say) as service:
            model = trained_model(service, corpus, wanted, scratch / "run", options)
            messages = [example.message for example in corpus.test]
            yield from compared(service, model, messages, options)


def trained_model(
    service: Service, corpus: Corpus, wanted: str, folder: Path, options: argparse.Namespace
) -> Model:
    from mailroom.config import served_name
    from mailroom.decision.model import find_model
    from mailroom.training.plan import PRESETS
    from mailroom.training.run import train
    from mailroom.training.run_directory import RunDirectory

    plan = replace(
        PRESETS["tiny"],
        base_model=served_name(wanted),
        num_examples=options.examples or (40 if options.quick else 400),
        num_epochs=1 if options.quick else 3,
    )
    trained = train(
        service,
        corpus.train,
        corpus.taxonomy,
        plan,
        RunDirectory(folder),
        corpus="builtin",
        corpus_digest=corpus.digest,
        base_model=wanted,
    )
    say(f"  {trained.steps} steps, last loss {trained.last_loss:.4f}")
    return find_model(service, trained.model, base_model=wanted, taxonomy=None, say=say)


def compared(
    service: Service, model: Model, messages: Sequence[Message], options: argparse.Namespace
) -> Iterator[dict[str, Any]]:
    from mailroom.decision.model import open_predictor

    together = list(messages[: options.mails or (12 if options.quick else None)])
    singles = together[: options.singles or (3 if options.quick else 20)]
    best: dict[tuple[str, str], float] = {}
    answers: dict[str, list[Prediction]] = {}
    with service.session() as session:
        predictors = {
            way: open_predictor(service, session, model, free=is_free)
            for way, is_free in WAYS.items()
        }
        for predictor in predictors.values():
            predictor.predict(singles[:2])  # a client's first requests open its connections
        for _ in range(options.rounds or (1 if options.quick else 3)):
            for way, predictor in predictors.items():
                marks = [time.perf_counter()]
                answers[way] = predictor.predict(together)
                marks.append(time.perf_counter())
                for message in singles:
                    predictor.predict([message])
                marks.append(time.perf_counter())
                for place, (how, count) in enumerate(
                    (("at once", len(together)), ("in turn", len(singles)))
                ):
                    rate = count / (marks[place + 1] - marks[place])
                    best[how, way] = max(rate, best.get((how, way), 0.0))
    for how, count in (("at once", len(together)), ("in turn", len(singles))):
        rates = {way: best[how, way] for way in WAYS}
        yield row(f"{count} mails {how}", unit="mails/s", **rates)
    generated = {
        way: sum(one.num_tokens - one.num_given for one in found) / len(found)
        for way, found in answers.items()
    }
    yield row("tokens generated for a mail", unit="tokens", **generated)
    same = sum(a.text == b.text for a, b in zip(*answers.values(), strict=True))
    yield row("texts that are the same", ours=same / len(together), unit="share")


if __name__ == "__main__":
    run("triage", __doc__, options, measure)
