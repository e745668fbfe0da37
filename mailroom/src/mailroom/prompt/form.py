"""The four-step form: the one way an answer is written, and the strict way it is read back.

Grammar, with nothing before, between or after:

    Step 1: Classification → <category's formatted name>
    Step 2: Priority → High | Medium | Low
    Step 3: Suggested actions → <action>{; <action>}
    Step 4: Drafted response → <draft, or "No response required" and more>
"""

from __future__ import annotations

from mailroom.mail.plain import LINE_BREAK
from mailroom.taxonomy import NO_RESPONSE, PRIORITIES, Answer, Category, Priority, Taxonomy

STEPS = (
    "Step 1: Classification → ",
    "Step 2: Priority → ",
    "Step 3: Suggested actions → ",
    "Step 4: Drafted response → ",
)
"""What each line starts with, the space before its value included."""

_SEPARATOR = "; "
_PRIORITY_OF: dict[str, Priority] = {priority: priority for priority in PRIORITIES}


def render_answer(taxonomy: Taxonomy, answer: Answer) -> str:
    """The answer as four lines, the last without a line end.

    Raises:
        ValueError: a value would break the form, so that `parse_answer` could not read it.
        TaxonomyError: the taxonomy has no such category.
    """
    category = taxonomy.category(answer.category)
    response = category.no_response if answer.draft is None else answer.draft
    values = (category.name, answer.priority, _SEPARATOR.join(answer.actions), response)
    text = "\n".join(step + value for step, value in zip(STEPS, values, strict=True))
    if parse_answer(text, taxonomy) != answer:
        raise ValueError(f"this answer does not fit the four-step form: {answer!r}")
    return text


def parse_answer(text: str, taxonomy: Taxonomy) -> Answer | None:
    """The answer that a text holds, or None where it does not follow the form to the letter.

    Any priority and any actions pass: the form says how an answer is written, not that it is right.
    """
    lines = text.split("\n")
    if len(lines) != len(STEPS):
        return None
    values = []
    for step, line in zip(STEPS, lines, strict=True):
        value = line.removeprefix(step)
        if not line.startswith(step) or not _is_one_value(value):
            return None
        values.append(value)
    name, priority_text, actions_text, response = values
    category = taxonomy.named(name)
    priority = _PRIORITY_OF.get(priority_text)
    actions = tuple(actions_text.split(_SEPARATOR))
    if category is None or priority is None or not all(map(_is_action, actions)):
        return None
    draft = None if response.startswith(NO_RESPONSE) else response
    return Answer(category.key, priority, actions, draft)


def category_prefix(category: Category) -> str:
    """The beginning of every answer of this category, up to the end of its first line.

    The line end is part of it, so that no category's prefix is another one's beginning.
    """
    return f"{STEPS[0]}{category.name}\n"


def _is_one_value(value: str) -> bool:
    return bool(value) and value == value.strip() and not LINE_BREAK.search(value)


def _is_action(action: str) -> bool:
    return bool(action) and action == action.strip() and ";" not in action
