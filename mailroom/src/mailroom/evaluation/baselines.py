"""Word-count models on the same training examples: the honest yardstick beside every figure."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from mailroom.evaluation.scores import Scores, score_categories
from mailroom.mail.message import Message


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


def score_baselines(
    train: Sequence[tuple[Message, str]], test: Sequence[tuple[Message, str]]
) -> dict[str, Scores]:
    """Fit each baseline on labelled messages and score it on others; none where it cannot learn.

    Args:
        train, test: messages with their category keys.
    """
    texts = [_text(message) for message, _ in train]
    labels = [label for _, label in train]
    if len(set(labels)) < 2 or not test:
        return {}
    expected = [label for _, label in test]
    scores = {}
    for name, make in BASELINES.items():
        model = make()
        model.fit(texts, labels)
        given = [str(label) for label in model.predict([_text(message) for message, _ in test])]
        scores[name] = score_categories(expected, given)
    return scores


def _text(message: Message) -> str:
    return f"{message.subject}\n{message.body}"
