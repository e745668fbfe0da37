"""A message as the rest of mailroom sees it: decoded text, no bytes, no MIME."""

from __future__ import annotations

from dataclasses import dataclass


class UnreadableMessageError(ValueError):
    """The bytes hold nothing that a person could read; the text says why."""


@dataclass(frozen=True, slots=True)
class Message:
    """One mail, as plain text.

    Every field is ready to show and to encode: no control characters besides newline and tab
    (the header fields have neither), no NUL, no lone surrogate.
    """

    subject: str
    body: str
    """Plain text. HTML is converted, attachments are named on a line of their own."""
    sender: str = ""
    """The From header as written, decoded; often `Name <address>`, sometimes no address at all."""
    to: str = ""
    date: str = ""
    """The Date header as written: senders lie and err, so nothing is parsed here."""
    message_id: str = ""
    """With its angle brackets; empty when the message has none."""
