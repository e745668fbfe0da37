"""What triage came to, for people and for programs."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, TextIO

from mailroom.mail.plain import clean, one_line
from mailroom.prompt.form import render_answer
from mailroom.taxonomy import Taxonomy
from mailroom.triage.triage import TriagedMessage

SUBJECT_CHARS = 100
SENDER_CHARS = 60


@dataclass(slots=True)
class Summary:
    """A running count."""

    decided: int = 0
    left: int = 0
    unreadable: int = 0

    @property
    def read(self) -> int:
        """All messages that the source held, unreadable ones included: none goes missing."""
        return self.decided + self.left + self.unreadable

    def count(self, triaged: TriagedMessage) -> None:
        match triaged.status:
            case "decided":
                self.decided += 1
            case "left":
                self.left += 1
            case "unreadable":
                self.unreadable += 1

    def line(self) -> str:
        return (
            f"{self.read} read   {self.decided} decided   {self.left} left to you   "
            f"{self.unreadable} unreadable\nNothing was changed."
        )


def human_text(triaged: TriagedMessage, taxonomy: Taxonomy) -> str:
    """A message's lines: whose it is, the four steps as the form has them, and how sure."""
    if triaged.message is None or triaged.decision is None:
        return (
            f"[{triaged.index}] {one_line(triaged.origin)}\nCould not be read: {triaged.error}.\n"
        )
    message, decision = triaged.message, triaged.decision
    sender = one_line(message.sender, SENDER_CHARS) or "(no sender)"
    subject = one_line(message.subject, SUBJECT_CHARS) or "(no subject)"
    lines = [f"[{triaged.index}] {sender} | {subject}"]
    if decision.answer is None:
        lines.append(f"Left to you: {decision.reason}")
    else:
        # A model can write control characters; a terminal would obey them.
        lines.append(clean(render_answer(taxonomy, decision.answer)))
        sure = "not scored" if decision.confidence is None else f"{decision.confidence:.2f}"
        lines.append(f"Confidence: {sure}. {decision.reason}")
    return "\n".join(lines) + "\n"


def print_human(triaged: Iterable[TriagedMessage], taxonomy: Taxonomy, out: TextIO) -> Summary:
    """Write each message as it comes, a blank line behind it, and the summary at the end."""
    summary = Summary()
    for one in triaged:
        summary.count(one)
        out.write(human_text(one, taxonomy) + "\n")
        out.flush()
    out.write(summary.line() + "\n")
    return summary


def json_entry(triaged: TriagedMessage) -> dict[str, Any]:
    """One element of the document's `messages`; what does not apply is null, actions empty."""
    message_id = triaged.message.message_id if triaged.message else ""
    decision = triaged.decision
    answer = decision.answer if decision else None
    return {
        "index": triaged.index,
        "message_id": message_id or None,
        "origin": one_line(triaged.origin),
        "status": triaged.status,
        "category": answer.category if answer else None,
        "priority": answer.priority if answer else None,
        "actions": list(answer.actions) if answer else [],
        "draft": answer.draft if answer else None,
        "confidence": decision.confidence if decision else None,
        "reason": decision.reason if decision else None,
        "error": triaged.error,
    }


def as_json(triaged: Iterable[TriagedMessage]) -> dict[str, Any]:
    """The whole document, ready for `json.dumps`; messages stand in the source's order."""
    summary = Summary()
    messages: list[dict[str, Any]] = []
    for one in triaged:
        summary.count(one)
        messages.append(json_entry(one))
    counts = {"read": summary.read, "decided": summary.decided, "left": summary.left}
    return {"messages": messages, "summary": {**counts, "unreadable": summary.unreadable}}
