"""From a prediction to a decision. Pure: no model, no mailbox, no clock."""

from __future__ import annotations

from dataclasses import dataclass, replace

from mailroom.decision.prediction import Prediction
from mailroom.mail.message import Message
from mailroom.taxonomy import NO_RULE, Answer, Category, Taxonomy


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

    The category is the likeliest of the closed set, and the taxonomy gives it its priority. Actions
    and draft are the model's own where its answer has the exact form, names the same category, and
    chooses what the taxonomy knows for it: the category's own or those of one of its rules.
    Otherwise they are what the taxonomy says for this message. So no text in a message can bring
    about a priority, an action or a draft that the taxonomy does not have for its category.

    Args:
        threshold: smallest confidence to act on, 0 to 1; 0 decides always.
    """
    written = prediction.answer
    category = prediction.likeliest or (written.category if written is not None else None)
    if category is None:
        return Decision(None, None, "The model's answer does not follow the four-step form.")
    confidence = prediction.probabilities.get(category)
    name = taxonomy.category(category).name
    if confidence is not None and confidence < threshold:
        return Decision(
            None, confidence, f"{name} is only {confidence:.0%} sure, below {threshold:.0%}."
        )
    usual = taxonomy.answer(category, message)
    if written is None:
        return Decision(usual, confidence, "The written answer breaks the form; the score decides.")
    if written.category != category:
        other = taxonomy.category(written.category).name
        return Decision(usual, confidence, f"The written answer says {other}; the score decides.")
    if (written.actions, written.draft) not in _known_steps(taxonomy.category(category)):
        reason = f"The written steps are none of the taxonomy's for {name}; its own count."
        return Decision(usual, confidence, reason)
    answer = replace(written, priority=usual.priority)
    is_own = answer == written
    reason = "The model's own answer." if is_own else f"{name} is always {usual.priority} priority."
    return Decision(answer, confidence, reason)


def _known_steps(category: Category) -> set[tuple[tuple[str, ...], str | None]]:
    """Actions and draft as they can go together in an answer of this category."""
    rules = [NO_RULE, *category.rules]
    return {(answer.actions, answer.draft) for answer in map(category.answer_by, rules)}
