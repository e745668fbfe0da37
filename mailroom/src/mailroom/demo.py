"""The main job from end to end, on the built-in data and base model, told as it happens."""

from __future__ import annotations

import shlex
import sys
import textwrap
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from mailroom.config import BETTER_ON_CPU, BUILTIN_BASE_MODEL, REFERENCE_BASE_MODEL, absolute_choice
from mailroom.corpus.build import build
from mailroom.corpus.corpus import Corpus
from mailroom.decision.model import BASE, Model, find_model, open_predictor
from mailroom.evaluation.evaluate import Evaluation, evaluate
from mailroom.evaluation.report import baseline_lines, detail_lines, scores_line, write_report
from mailroom.evaluation.token_picture import TokenPicture
from mailroom.export.export import Exported, export
from mailroom.prompt.chat import MAX_PROMPT_TOKENS
from mailroom.service.address import Address
from mailroom.service.connect import Service
from mailroom.service.remembered import remember, remember_scores
from mailroom.sources.open import open_source
from mailroom.taxonomy import Taxonomy
from mailroom.training.plan import Plan
from mailroom.training.run import Trained, train
from mailroom.training.run_directory import RunDirectory, StepMetrics
from mailroom.triage.report import human_text
from mailroom.triage.triage import triage

SAMPLE_MAILS = {
    "1-lunch.eml": b"""From: Ingrid Holm <ingrid@holm.example>
Subject: Lunch next week?
Message-ID: <sample-1@holm.example>

Hi, I am in town next week and would love to see you. Shall we have lunch on Wednesday, maybe at
the small place by the station? Let me know what suits you.

Ingrid
""",
    "2-code.eml": b"""From: Notewell <no-reply@notewell.example>
Subject: Your sign-in code
Message-ID: <sample-2@notewell.example>

Use 482913 to finish signing in. The code is valid for ten minutes. Never share it with anyone.
""",
    "3-parcel.eml": b"""From: Parcel service <post@parcels.example>
Subject: Your parcel is on its way
Message-ID: <sample-3@parcels.example>

Your order 55-20417 left our warehouse today. The courier will deliver it on Thursday between 9:00
and 13:00. You can follow the delivery in your account.
""",
}


class Screen(Protocol):
    """Where the demo tells its story: `cli.terminal.Terminal` is one."""

    def say(self, line: str) -> None: ...
    def show(self, text: str) -> None: ...
    def progress(self, label: str) -> AbstractContextManager[Callable[[int, int, str], None]]: ...


@dataclass(frozen=True, slots=True)
class DemoResult:
    seconds: float
    evaluation: Evaluation
    trained: Trained
    exported: Exported
    report: Path

    def as_json(self) -> dict[str, Any]:
        return {
            "seconds": round(self.seconds, 1),
            **self.evaluation.scores_as_json(),
            "model": self.trained.model,
            "state": self.trained.state,
            "base_model": self.evaluation.model.base_model,
            "adapter": str(self.exported.export.folder),
            "report": str(self.report),
            "confusion": self.evaluation.confusion(self.evaluation.latest),
        }


class Demo:
    """The steps of the job, each of which a command of mailroom does too."""

    def __init__(
        self,
        service: Service,
        out: Path,
        plan: Plan,
        screen: Screen,
        *,
        base_model: str,
        home: Path,
        options: str = "",
        num_test: int = 0,
    ) -> None:
        """
        Args:
            base_model: as the user wrote it.
            home: mailroom's own folder.
            options: what the user gave that each of the single commands needs as well.
            num_test: only the first so many test mails are asked; 0 takes all.
        """
        self._service = service
        self._out = out
        self._home = home
        self._options = options
        self._num_test = num_test
        self._plan = plan
        self._base_model = base_model
        self._screen = screen
        self._started = time.monotonic()

    def run(self, started: float) -> DemoResult:
        """Do it all. `started` is when the command began, on the monotonic clock."""
        self._started = started
        corpus = self._build()
        before = self._ask_base(corpus)
        trained = self._train(corpus, before.picture)
        evaluation, report = self._evaluate(corpus, before, trained)
        exported = self._export(trained, evaluation)
        self._triage(evaluation.model)
        seconds = time.monotonic() - self._started
        self._close(seconds, report)
        return DemoResult(seconds, evaluation, trained, exported, report)

    def _build(self) -> Corpus:
        out = self._out / "corpus"
        self._head("Labelled mail -> examples", f"mailroom build --data builtin --out {_word(out)}")
        summary = build("builtin", out, taxonomy=Taxonomy.load("default"))
        self._tell(
            f"{summary.train} made-up mails to learn from and {summary.test} to test with, in "
            f"{len(summary.categories)} categories. The test mails come from templates that "
            "training never sees."
        )
        return Corpus.load(out)

    def _ask_base(self, corpus: Corpus) -> Evaluation:
        self._head(
            "Before: the base model as it is",
            f"mailroom evaluate --corpus {_word(corpus.directory)} --model base{self._options}",
        )
        model = Model(BASE, self._plan.base_model, corpus.taxonomy, MAX_PROMPT_TOKENS)
        evaluation = self._evaluated(model, corpus, None)
        text = evaluation.before.predictions[0].text
        self._tell("Asked for four steps it has never seen, it writes something like:")
        self._quote(textwrap.shorten(text, 160, placeholder=" ...") or "(nothing)")
        self._tell(scores_line(evaluation.before))
        return evaluation

    def _train(self, corpus: Corpus, picture: TokenPicture | None) -> Trained:
        self._head(
            "Training: a LoRA adapter beside the frozen base",
            f"mailroom train --corpus {_word(corpus.directory)} --run {_word(self._out / 'run')}"
            f"{self._options}",
        )
        if picture is not None:
            self._tell(
                "A mail and its answer become tokens. Those of the mail have weight 0, those of "
                f"the answer weight 1: {picture.num_weighted} of {len(picture.tokens)} here. Where "
                "the one ends and the other begins:"
            )
            self._quote(_seam(picture))
        directory = RunDirectory(self._out / "run")
        losses: list[StepMetrics] = []
        with self._screen.progress("step") as progress:

            def on_step(metrics: StepMetrics, total: int) -> None:
                losses.append(metrics)
                progress(metrics.step, total, f"loss {metrics.loss:.4f}")

            trained = train(
                self._service,
                corpus.train,
                corpus.taxonomy,
                self._plan,
                directory,
                corpus="builtin",
                corpus_digest=corpus.digest,
                base_model=absolute_choice(self._base_model),
                held_out=corpus.held_out(self._plan.num_examples),
                fresh=True,
                on_step=on_step,
                say=self._screen.say,
            )
        remember(
            self._home,
            Address.parse(trained.model).run_id,
            run=str(directory.path.resolve()),
        )
        self._quote(_loss_lines(losses))
        parameters = trained.trainable_parameters
        size = f"{parameters:,} numbers" if parameters else "the adapter"
        self._tell(
            f"{trained.steps} steps of {self._plan.batch_size} mails trained {size} in "
            f"{trained.seconds:.0f} s. The base model itself has not changed."
        )
        return trained

    def _evaluate(
        self, corpus: Corpus, before: Evaluation, trained: Trained
    ) -> tuple[Evaluation, Path]:
        self._head(
            "After: the same mails again",
            f"mailroom evaluate --corpus {_word(corpus.directory)} --model {trained.model}"
            f"{self._options}",
        )
        model = find_model(
            self._service,
            trained.model,
            base_model=self._base_model,
            taxonomy=None,
            say=self._screen.say,
        )
        evaluation = self._evaluated(model, corpus, before)
        assert evaluation.after is not None
        remember_scores(self._home, trained.model, evaluation.scores_as_json())
        self._tell(f"before  {scores_line(evaluation.before)}")
        self._tell(f"after   {scores_line(evaluation.after)}")
        for line in detail_lines(evaluation.after):
            self._tell(f"        {line}")
        self._tell("The yardstick, word-count models on the same mails:")
        for line in baseline_lines(evaluation.baselines):
            self._tell(f"        {line}")
        report = self._out / "report.html"
        losses = [(m.step, m.loss) for m in RunDirectory(self._out / "run").metrics()]
        write_report(report, evaluation, corpus="the built-in data", losses=losses)
        return evaluation, report

    def _evaluated(self, model: Model, corpus: Corpus, before: Evaluation | None) -> Evaluation:
        with self._screen.progress("mail") as progress:
            return evaluate(
                self._service,
                model,
                corpus,
                limit=self._num_test,
                num_train=self._plan.num_examples,
                scores_base=False,
                before=before.before if before else None,
                on_done=lambda what, done, total: progress(done, total, what),
            )

    def _export(self, trained: Trained, evaluation: Evaluation) -> Exported:
        out = self._out / "adapter"
        self._head(
            "The adapter as files",
            f"mailroom export --model {trained.model} --out {_word(out)}{self._options}",
        )
        exported = export(
            self._service,
            trained.model,
            out,
            base_model=self._base_model,
            taxonomy=None,
            scores=evaluation.scores_as_json(),
            say=self._screen.say,
        )
        self._tell(f"{exported.as_text()}: what PEFT and other programs load, with a model card.")
        return exported

    def _triage(self, model: Model) -> None:
        folder = self._out / "mail"
        folder.mkdir(exist_ok=True)
        for name, mail in SAMPLE_MAILS.items():
            (folder / name).write_bytes(mail)
        self._head(
            "Mail that it has not seen",
            f"mailroom triage {_word(folder)} --model {model.reference}{self._options}",
        )
        mails = open_source([str(folder / name) for name in SAMPLE_MAILS], sys.stdin.buffer)
        with self._service.session() as session:
            predictor = open_predictor(self._service, session, model)
            for triaged in triage(mails, predictor, model.taxonomy):
                self._quote(human_text(triaged, model.taxonomy).rstrip())
                self._screen.show("")

    def _close(self, seconds: float, report: Path) -> None:
        self._screen.show(f"Done in {seconds:.0f} s. The report: {report}")
        if self._plan.base_model == BUILTIN_BASE_MODEL:
            self._screen.show(
                "\nTo be honest: so small a base model shows the mechanics, no more. Your own "
                f"mailbox deserves\n{BETTER_ON_CPU} (on a CPU) or {REFERENCE_BASE_MODEL} (on a "
                f"GPU), one flag away:\n  mailroom train --corpus DIR --base-model {BETTER_ON_CPU}"
            )

    def _head(self, title: str, command: str) -> None:
        elapsed = time.monotonic() - self._started
        self._screen.show(f"\n{title}  [{elapsed:.0f} s]\n  $ {command}")

    def _tell(self, text: str) -> None:
        self._screen.show(textwrap.fill(text, 96, initial_indent="  ", subsequent_indent="  "))

    def _quote(self, text: str) -> None:
        self._screen.show(textwrap.indent(text, "    | "))


def _word(path: Path) -> str:
    """The path as a shell takes it."""
    return shlex.quote(str(path))


def _seam(picture: TokenPicture) -> str:
    """The positions around the end of the prompt, as a table of input, target and weight."""
    rows = [("sees last", "is asked for", "weight")]
    rows += [
        (repr(p.input.text), repr(p.target.text), f"{p.weight:.0f}")
        for p in picture.around_the_seam(num_before=3, num_after=6)
    ]
    widths = [max(len(row[column]) for row in rows) for column in range(3)]
    return "\n".join(
        f"{seen:<{widths[0]}}  {asked:<{widths[1]}}  {weight:>{widths[2]}}"
        for seen, asked, weight in rows
    )


def _loss_lines(losses: Sequence[StepMetrics], num_lines: int = 6) -> str:
    """Mean loss of a few stretches of the run, with bars."""
    if not losses:
        return "(nothing left to train)"
    size = max(1, -(-len(losses) // num_lines))
    stretches = [losses[start : start + size] for start in range(0, len(losses), size)]
    means = [sum(m.loss for m in stretch) / len(stretch) for stretch in stretches]
    highest = max(means)
    return "\n".join(
        f"steps {stretch[0].step:>4} to {stretch[-1].step:<4}  loss {mean:7.4f}  "
        + "#" * max(1, round(40 * mean / highest))
        for stretch, mean in zip(stretches, means, strict=True)
    )
