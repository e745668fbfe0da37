"""One category of mail: its name, its priority, what to do with it and what to answer."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal, get_args

from mailroom.errors import MailroomError

Priority = Literal["High", "Medium", "Low"]
PRIORITIES: tuple[Priority, ...] = get_args(Priority)

NO_RESPONSE = "No response required"
"""How the drafted-response line begins when no draft is wanted; no draft may begin so."""


class TaxonomyError(MailroomError):
    """A taxonomy file, or a category asked for, is not what it should be."""


@dataclass(frozen=True, slots=True)
class Answer:
    """The four steps for one message, as values."""

    category: str
    """The category's key, e.g. `verify_code`."""
    priority: Priority
    actions: tuple[str, ...]
    draft: str | None
    """One line of reply, or None where no reply is wanted."""


@dataclass(frozen=True, slots=True)
class ContentRule:
    """What a message's words change within its category. The category decides the priority."""

    when: tuple[str, ...]
    """Words or phrases, any is enough; whole words, case ignored, `deliver*` for a stem."""
    actions: tuple[str, ...] = ()
    """Empty: the category's own."""
    draft: str | None = None
    """None: the category's own."""

    def matches(self, text: str) -> bool:
        return any(_pattern(phrase).search(text) for phrase in self.when)


NO_RULE = ContentRule(when=())
"""Changes nothing: for a message that no rule of its category matches."""


@dataclass(frozen=True, slots=True)
class Category:
    key: str
    """As data sets and JSON write it: lower-case letters, digits and `_`."""
    name: str
    """As the four-step form writes it, e.g. `Verify_code`."""
    description: str
    priority: Priority
    actions: tuple[str, ...]
    no_response: str
    """Step 4 where no draft is wanted; begins with NO_RESPONSE."""
    draft: str | None = None
    rules: tuple[ContentRule, ...] = ()
    """The first that matches counts."""

    def answer(self, text: str) -> Answer:
        """The four steps for a message of this category with this text (subject and body)."""
        return self.answer_by(next((r for r in self.rules if r.matches(text)), NO_RULE))

    def answer_by(self, rule: ContentRule) -> Answer:
        """The four steps for a message that this rule is for."""
        return Answer(
            category=self.key,
            priority=self.priority,
            actions=rule.actions or self.actions,
            draft=self.draft if rule.draft is None else rule.draft,
        )


def _pattern(phrase: str) -> re.Pattern[str]:
    """Built from escaped words, so that a taxonomy file cannot smuggle in a slow pattern."""
    words = r"\s+".join(
        re.escape(word.removesuffix("*")) + (r"\w*" if word.endswith("*") else "")
        for word in phrase.split()
    )
    return re.compile(rf"(?<!\w){words}(?!\w)", re.IGNORECASE)
