"""Word-count models on the same training examples: the honest yardstick beside every figure."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from mailroom.corpus.example import Example
from mailroom.evaluation.scores import Scores, score_categories


def _tfidf() -> Any:
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline

    return make_pipeline(
        TfidfVectorizer(sublinear_tf=True, ngram_range=(1, 2)),
        LogisticRegression(C=10.0, max_iter=1000),
    )


def _naive_bayes() -> Any:
    from sklearn.feature_extraction.text import CountVectorizer
    from sklearn.naive_bayes import MultinomialNB
    from sklearn.pipeline import make_pipeline

    return make_pipeline(CountVectorizer(), MultinomialNB())


BASELINES: Mapping[str, Callable[[], Any]] = {"tfidf": _tfidf, "naive_bayes": _naive_bayes}
"""Untrained scikit-learn pipelines by the name that tables and JSON use."""
TITLES = {"tfidf": "TF-IDF + logistic regression", "naive_bayes": "Naive Bayes on word counts"}


@dataclass(frozen=True, slots=True)
class Baseline:
    """A word-count model's scores; it only names categories, which bring their priority."""

    scores: Scores
    apart: Scores | None
    """On only the rows of which training knows neither subject nor body."""

    def as_json(self) -> dict[str, Any]:
        return {**self.scores.as_json(), "apart": self.apart.as_json() if self.apart else None}


def score_baselines(
    train: Sequence[Example], test: Sequence[Example], priorities: Mapping[str, str]
) -> dict[str, Baseline]:
    """Fit each baseline on the one part and score it on the other; none where it cannot learn."""
    if len({example.category for example in train}) < 2 or not test:
        return {}
    apart = [place for place, example in enumerate(test) if example.apart]
    expected = [example.category for example in test]
    found = {}
    for name, make in BASELINES.items():
        model = make()
        model.fit([_text(example) for example in train], [example.category for example in train])
        given = [str(label) for label in model.predict([_text(example) for example in test])]
        found[name] = Baseline(
            score_categories(expected, given, priorities),
            score_categories([expected[i] for i in apart], [given[i] for i in apart], priorities)
            if apart
            else None,
        )
    return found


def _text(example: Example) -> str:
    return f"{example.message.subject}\n{example.message.body}"
