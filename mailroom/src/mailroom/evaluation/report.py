"""The evaluation as one self-contained HTML page: nothing is fetched, everything is escaped."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from importlib import resources
from pathlib import Path

import jinja2
from markupsafe import Markup

from mailroom.config import BETTER_ON_CPU, BUILTIN_BASE_MODEL, REFERENCE_BASE_MODEL
from mailroom.decision.prediction import Prediction
from mailroom.evaluation.baselines import TITLES, Baseline
from mailroom.evaluation.evaluate import Evaluation, Result, expected_answers
from mailroom.evaluation.figures import loss_curve
from mailroom.evaluation.scores import NO_ANSWER, Scores
from mailroom.prompt.form import render_answer

NUM_MAILS = 6
NOT_APPLICABLE = "\u2013"
WHITE_SPACE = {"\n": "\u21b5\n", "\t": "\u21e5", " ": "\u00b7"}
"""How a token's white space is shown: a return arrow, a tab arrow, a middle dot."""


@dataclass(frozen=True, slots=True)
class _Row:
    title: str
    note: str
    scores: Scores
    is_ours: bool = False


@dataclass(frozen=True, slots=True)
class _Mail:
    subject: str
    body: str
    category: str
    expected: str
    before: str
    after: str | None
    is_right: bool
    was_right: bool
    probabilities: tuple[tuple[str, float], ...]


def write_report(
    path: Path,
    evaluation: Evaluation,
    *,
    corpus: str,
    losses: Sequence[tuple[int, float]] = (),
    made_at: datetime | None = None,
) -> None:
    """Write the page, whole or not at all.

    Args:
        corpus: what the page calls the data.
        losses: step and mean loss of the training run, where it is known.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.new")
    page = render_report(evaluation, corpus=corpus, losses=losses, made_at=made_at)
    temporary.write_text(page, encoding="utf-8")
    temporary.replace(path)


def render_report(
    evaluation: Evaluation,
    *,
    corpus: str,
    losses: Sequence[tuple[int, float]] = (),
    made_at: datetime | None = None,
) -> str:
    """The page as text. Mail text stands in it only escaped."""
    folder = resources.files("mailroom.evaluation")
    environment = jinja2.Environment(
        autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters["percent"] = _percent
    environment.filters["interval"] = _interval
    environment.filters["visible"] = _visible
    template = environment.from_string(folder.joinpath("report.html.jinja").read_text("utf-8"))
    taxonomy = evaluation.model.taxonomy
    return template.render(
        style=Markup(folder.joinpath("report.css").read_text("utf-8")),
        model=evaluation.model,
        is_builtin=evaluation.model.base_model == BUILTIN_BASE_MODEL,
        better_on_cpu=BETTER_ON_CPU,
        better_on_gpu=REFERENCE_BASE_MODEL,
        corpus=corpus,
        made_at=(made_at or datetime.now().astimezone()).strftime("%Y-%m-%d %H:%M"),
        before=evaluation.before,
        after=evaluation.after,
        latest=evaluation.latest,
        rows=_rows(evaluation),
        apart_rows=_apart_rows(evaluation),
        all_apart=_all_apart(evaluation),
        names={category.key: category.name for category in taxonomy.categories},
        keys=taxonomy.keys,
        no_answer=NO_ANSWER,
        confusion=evaluation.confusion(evaluation.latest),
        curve=Markup(loss_curve(losses)),
        num_steps=len(losses),
        mails=_mails(evaluation),
        picture=evaluation.picture,
    )


def _rows(evaluation: Evaluation) -> list[_Row]:
    before, after = evaluation.before, evaluation.after
    rows = [_Row("Before", "base model, written freely", before.written)]
    if before.scored is not None:
        rows.append(_Row("Before", "base model, categories scored", before.scored))
    if after is not None:
        rows.append(_Row("After", "trained adapter, written freely", after.written, True))
        if after.scored is not None:
            rows.append(_Row("After", "trained adapter, categories scored", after.scored, True))
    rows += [
        _Row(TITLES.get(name, name), "same training mails", baseline.scores)
        for name, baseline in evaluation.baselines.items()
    ]
    return rows


def _all_apart(evaluation: Evaluation) -> bool:
    return bool(evaluation.examples) and all(example.apart for example in evaluation.examples)


def _apart_rows(evaluation: Evaluation) -> list[_Row]:
    rows = []
    if _all_apart(evaluation):
        return []  # the table would be the first one again
    if evaluation.before.apart is not None:
        rows.append(_Row("Before", "written freely", evaluation.before.apart))
    if evaluation.after is not None and evaluation.after.apart is not None:
        rows.append(_Row("After", "written freely", evaluation.after.apart, True))
    rows += [
        _Row(TITLES.get(name, name), "same training mails", baseline.apart)
        for name, baseline in evaluation.baselines.items()
        if baseline.apart is not None
    ]
    return rows


def _mails(evaluation: Evaluation) -> list[_Mail]:
    """A few mails: first one that went wrong, if any did, then one of each category in turn."""
    latest, taxonomy = evaluation.latest, evaluation.model.taxonomy
    expected = expected_answers(taxonomy, evaluation.examples)
    right = [_is_right(p, a.category) for p, a in zip(latest.predictions, expected, strict=True)]
    wrong = [place for place, is_right in enumerate(right) if not is_right][:1]
    first_of: dict[str, int] = {}
    for place, answer in enumerate(expected):
        if place not in wrong:
            first_of.setdefault(answer.category, place)
    places = [*list(first_of.values())[: NUM_MAILS - len(wrong)], *wrong]
    return [_mail(evaluation, place, render_answer(taxonomy, expected[place])) for place in places]


def _mail(evaluation: Evaluation, place: int, expected: str) -> _Mail:
    example, taxonomy = evaluation.examples[place], evaluation.model.taxonomy
    before = evaluation.before.predictions[place]
    latest = evaluation.latest.predictions[place]
    likeliest = sorted(latest.probabilities.items(), key=lambda item: -item[1])[:3]
    return _Mail(
        subject=example.message.subject,
        body=example.message.body,
        category=taxonomy.category(example.category).name,
        expected=expected,
        before=before.text,
        after=latest.text if evaluation.after is not None else None,
        is_right=_is_right(latest, example.category),
        was_right=_is_right(before, example.category),
        probabilities=tuple((taxonomy.category(key).name, p) for key, p in likeliest),
    )


def _is_right(prediction: Prediction, category: str) -> bool:
    return prediction.answer is not None and prediction.answer.category == category


def _percent(share: float | None) -> str:
    """One decimal below 99.95 %, so that 99.6 % does not read as all."""
    return NOT_APPLICABLE if share is None else f"{100 * share:.1f} %".replace("100.0 %", "100 %")


def _interval(interval: tuple[float, float] | None) -> str:
    return "" if interval is None else f"{100 * interval[0]:.1f} to {100 * interval[1]:.1f}"


def _visible(text: str) -> str:
    """A token's text with its white space to be seen."""
    for plain, shown in WHITE_SPACE.items():
        text = text.replace(plain, shown)
    return text or "\u2205"


def scores_line(result: Result) -> str:
    """A result in one line, for a terminal."""
    scores = result.written
    parts = [
        f"format {_percent(scores.format)}",
        f"category {_percent(scores.category)} ({_interval(scores.category_interval)})",
        f"priority {_percent(scores.priority)}",
        f"macro-F1 {scores.macro_f1:.3f}" if scores.macro_f1 is not None else "",
        f"{scores.mean_tokens:.0f} tokens" if scores.mean_tokens is not None else "",
    ]
    return ", ".join(part for part in parts if part)


def detail_lines(result: Result) -> list[str]:
    """What else there is to say of a result, for a terminal."""
    lines = []
    if (found := result.confidence) is not None:
        lines.append(
            f"confidence is off by {_percent(found.ece)} on average (Brier {found.brier:.3f}); "
            f"uncalibrated {_percent(found.ece_uncalibrated)} ({found.brier_uncalibrated:.3f})"
            if found.temperature != 1.0
            else f"confidence is off by {_percent(found.ece)} on average (Brier {found.brier:.3f})"
        )
    if result.mean_given:
        lines.append(f"{result.mean_given:.0f} tokens of an answer did not have to be generated")
    if result.same_as_free is not None:
        lines.append(f"{_percent(result.same_as_free)} of the texts are those of free generation")
    return lines


def baseline_lines(baselines: Mapping[str, Baseline]) -> list[str]:
    """The yardsticks, a line each, for a terminal."""
    return [
        f"{TITLES.get(name, name)}: category {_percent(baseline.scores.category)}"
        for name, baseline in baselines.items()
    ]
