"""Before and after on the test part: the base model and the trained one, asked the same way."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from mailroom.corpus.corpus import Corpus
from mailroom.corpus.example import Example
from mailroom.decision.model import BASE, Model, open_predictor
from mailroom.decision.prediction import Prediction
from mailroom.decision.predictor import Predictor
from mailroom.errors import MailroomError
from mailroom.evaluation.baselines import Baseline, score_baselines
from mailroom.evaluation.confidence import Confidence, score_confidence
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
    """By greedy decoding."""
    scored: Scores | None
    """By logprob over the closed set of categories."""
    apart: Scores | None
    """`written`, on only the rows of which training knows neither subject nor body."""
    confidence: Confidence | None = None
    """Of the scored categories."""
    same_as_free: float | None = None
    """Share of texts that free greedy generation gives too; None if that was not asked for."""

    @property
    def mean_given(self) -> float | None:
        """Mean number of an answer's tokens that did not have to be generated."""
        total = sum(prediction.num_given for prediction in self.predictions)
        return total / len(self.predictions) if self.predictions else None

    def as_json(self) -> dict[str, Any]:
        """SCORES, with the other two sets inside."""
        return {
            **self.written.as_json(),
            "scored": self.scored.as_json() if self.scored else None,
            "apart": self.apart.as_json() if self.apart else None,
            "confidence": self.confidence.as_json() if self.confidence else None,
            "mean_given": self.mean_given,
            "same_as_free": self.same_as_free,
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
    free: bool = False,
    compare_free: bool = False,
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
        free: generate every token of the answers, guessing none.
        compare_free: ask `model` once more, freely, and count the texts that are the same.
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
            predictor = open_predictor(service, session, asked, scores=wanted, free=free)
            picture = picture or _picture(corpus, predictor, asked)
            messages = [example.message for example in examples]
            predictions = predictor.predict(
                messages, lambda done: on_done(what, done, len(messages))
            )
            result = score(asked.taxonomy, examples, predictions, asked.temperature)
            if not compare_free or asked is not model:
                return result
            freely = open_predictor(service, session, asked, scores=False, free=True).predict(
                messages, lambda done: on_done(f"{what}, freely", done, len(messages))
            )
            return replace(result, same_as_free=same_texts(predictions, freely))

        is_base = model.reference == BASE
        if before is None:
            before = ask(model if is_base else model.base(), "before")
        after = None if is_base else ask(model, "after")
    train = corpus.train[: num_train or None]
    baselines = score_baselines(train, examples, model.taxonomy.priorities)
    return Evaluation(model, examples, before, after, baselines, picture)


def score(
    taxonomy: Taxonomy,
    examples: Sequence[Example],
    predictions: Sequence[Prediction],
    temperature: float = 1.0,
) -> Result:
    """Predictions of these examples against the taxonomy's answers.

    Args:
        temperature: by which their probabilities are calibrated.
    """
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
        confidence=score_confidence(
            [prediction.probabilities for prediction in predictions],
            [answer.category for answer in expected],
            temperature,
        )
        if all(likeliest) and predictions
        else None,
    )


def same_texts(one: Sequence[Prediction], other: Sequence[Prediction]) -> float | None:
    """Share of messages for which both wrote the same."""
    same = sum(a.text == b.text for a, b in zip(one, other, strict=True))
    return same / len(one) if one else None


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
