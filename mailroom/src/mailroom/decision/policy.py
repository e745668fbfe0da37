"""From a prediction to a decision. Pure: no model, no mailbox, no clock."""

from __future__ import annotations

from dataclasses import dataclass, replace

from mailroom.decision.prediction import Prediction
from mailroom.mail.message import Message
from mailroom.taxonomy import Answer, Taxonomy


@dataclass(frozen=True, slots=True)
class Decision:
    """The four steps for one message, or the reason why it is left to the person."""

    answer: Answer | None
    """None: left to the person."""
    confidence: float | None
    """Probability of the category within the taxonomy; None if nothing was scored."""
    reason: str
    """One sentence: why this, or why nothing."""

    @property
    def is_decided(self) -> bool:
        return self.answer is not None


def decide(
    prediction: Prediction, message: Message, taxonomy: Taxonomy, threshold: float
) -> Decision:
    """Choose the category, the other three steps with it, or leave the message alone.

    The category is the likeliest of the closed set. Where the model's own answer has the exact
    form and names the same category, its priority, actions and draft count, but only actions that
    the taxonomy knows for that category, and a draft only where the taxonomy wants one: no text
    in a message can bring about more than the taxonomy allows. Otherwise the taxonomy answers.

    Args:
        threshold: smallest confidence to act on, 0 to 1; 0 decides always.
    """
    written = prediction.answer
    category = prediction.likeliest or (written.category if written is not None else None)
    if category is None:
        return Decision(None, None, "The model's answer does not follow the four-step form.")
    confidence = prediction.probabilities.get(category)
    if confidence is not None and confidence < threshold:
        name = taxonomy.category(category).name
        return Decision(
            None, confidence, f"{name} is only {confidence:.0%} sure, below {threshold:.0%}."
        )
    usual = taxonomy.answer(category, message)
    if written is None:
        return Decision(usual, confidence, "The written answer breaks the form; the score decides.")
    if written.category != category:
        other = taxonomy.category(written.category).name
        return Decision(usual, confidence, f"The written answer says {other}; the score decides.")
    answer, reason = written, "The model's own answer."
    if not set(answer.actions) <= _known_actions(taxonomy, category):
        answer, reason = replace(answer, actions=usual.actions), "Actions are the taxonomy's."
    if usual.draft is None:
        answer = replace(answer, draft=None)
    return Decision(answer, confidence, reason)


def _known_actions(taxonomy: Taxonomy, category_key: str) -> set[str]:
    category = taxonomy.category(category_key)
    return {*category.actions, *(action for rule in category.rules for action in rule.actions)}
