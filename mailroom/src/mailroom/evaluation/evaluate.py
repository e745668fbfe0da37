"""Before and after on the test part: the base model and the trained one, asked the same way."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from mailroom.corpus.corpus import Corpus
from mailroom.corpus.example import Example
from mailroom.decision.model import BASE, Model, open_predictor
from mailroom.decision.prediction import Prediction
from mailroom.decision.predictor import Predictor
from mailroom.errors import MailroomError
from mailroom.evaluation.baselines import Baseline, score_baselines
from mailroom.evaluation.scores import Scores, confusion, score_categories, score_written
from mailroom.evaluation.token_picture import TokenPicture, picture_of
from mailroom.service.connect import Service
from mailroom.taxonomy import Answer, Taxonomy


@dataclass(frozen=True, slots=True)
class Result:
    """One model's answers to the test part."""

    predictions: tuple[Prediction, ...]
    """In the order of the test examples."""
    written: Scores
    """By free greedy generation."""
    scored: Scores | None
    """By logprob over the closed set of categories."""
    apart: Scores | None
    """`written`, on only the rows of which training knows neither subject nor body."""

    def as_json(self) -> dict[str, Any]:
        """SCORES, with the other two sets inside."""
        return {
            **self.written.as_json(),
            "scored": self.scored.as_json() if self.scored else None,
            "apart": self.apart.as_json() if self.apart else None,
        }


@dataclass(frozen=True, slots=True)
class Evaluation:
    model: Model
    examples: tuple[Example, ...]
    before: Result
    after: Result | None
    """None where the base model alone was asked for."""
    baselines: dict[str, Baseline]
    picture: TokenPicture | None = None
    """A training example's tokens and weights."""

    @property
    def latest(self) -> Result:
        return self.after or self.before

    def confusion(self, result: Result) -> dict[str, dict[str, int]]:
        """By the written answers."""
        given = [p.answer.category if p.answer else None for p in result.predictions]
        keys = self.model.taxonomy.keys
        return confusion([example.category for example in self.examples], given, keys)

    def scores_as_json(self) -> dict[str, Any]:
        return {
            "before": self.before.as_json(),
            "after": self.after.as_json() if self.after else None,
            "baselines": {name: found.as_json() for name, found in self.baselines.items()},
        }

    def as_json(self) -> dict[str, Any]:
        return {
            "model": self.model.reference,
            "base_model": self.model.base_model,
            **self.scores_as_json(),
            "confusion": self.confusion(self.latest),
        }


def evaluate(
    service: Service,
    model: Model,
    corpus: Corpus,
    *,
    limit: int = 0,
    num_train: int = 0,
    scores: bool = True,
    scores_base: bool = True,
    before: Result | None = None,
    on_done: Callable[[str, int, int], None] = lambda what, done, total: None,
) -> Evaluation:
    """Ask the base model and, unless that is `model` itself, the trained one.

    Args:
        limit: only the first so many test examples; 0 takes all.
        num_train: the baselines learn from the first so many training examples, as the model did;
            0 takes all.
        scores: whether to score the closed set too.
        scores_base: the same for the base model, which takes a request for each category and mail:
            a category is seldom among the likeliest words of a model that was not taught the form.
            Without it `before.scored` is None.
        before: the base model's result on the same examples, where it is known already.
        on_done: hears what is being asked, and how many of how many are done.

    Raises:
        MailroomError: the model's taxonomy lacks a category of the corpus.
    """
    examples = corpus.test[: limit or None]
    _check_categories(model.taxonomy, examples)
    picture = None
    with service.session() as session:

        def ask(asked: Model, what: str) -> Result:
            nonlocal picture
            wanted = scores and (scores_base or asked.reference != BASE)
            predictor = open_predictor(service, session, asked, scores=wanted)
            picture = picture or _picture(corpus, predictor, asked)
            messages = [example.message for example in examples]
            predictions = predictor.predict(
                messages, lambda done: on_done(what, done, len(messages))
            )
            return score(asked.taxonomy, examples, predictions)

        if before is None:
            before = ask(model.base(), "before")
        after = None if model.reference == BASE else ask(model, "after")
    train = corpus.train[: num_train or None]
    baselines = score_baselines(train, examples, model.taxonomy.priorities)
    return Evaluation(model, examples, before, after, baselines, picture)


def score(
    taxonomy: Taxonomy, examples: Sequence[Example], predictions: Sequence[Prediction]
) -> Result:
    """Predictions of these examples against the taxonomy's answers."""
    expected = expected_answers(taxonomy, examples)
    likeliest = [prediction.likeliest for prediction in predictions]
    apart = [place for place, example in enumerate(examples) if example.apart]
    return Result(
        predictions=tuple(predictions),
        written=score_written(expected, predictions),
        scored=score_categories(
            [answer.category for answer in expected], likeliest, taxonomy.priorities
        )
        if any(likeliest)
        else None,
        apart=score_written([expected[i] for i in apart], [predictions[i] for i in apart])
        if apart
        else None,
    )


def expected_answers(taxonomy: Taxonomy, examples: Sequence[Example]) -> list[Answer]:
    return [taxonomy.answer(example.category, example.message) for example in examples]


def _picture(corpus: Corpus, predictor: Predictor, model: Model) -> TokenPicture | None:
    """The shortest of the first training mails, so that it can be taken in at a glance."""
    if not corpus.train:
        return None
    example = min(corpus.train[:50], key=lambda example: len(example.message.body))
    return picture_of(example, predictor.tokenizer, model.taxonomy, model.max_prompt_tokens)


def _check_categories(taxonomy: Taxonomy, examples: Sequence[Example]) -> None:
    unknown = sorted({example.category for example in examples} - set(taxonomy.keys))
    if unknown:
        raise MailroomError(
            f"the corpus has the categories {', '.join(unknown)}, which the model's taxonomy "
            f"{taxonomy.name!r} lacks; it has {', '.join(taxonomy.keys)}"
        )
