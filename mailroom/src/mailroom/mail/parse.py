"""Raw bytes to a Message. The bytes are a stranger's: anything may stand in them."""

from __future__ import annotations

from mailroom.mail.entity import read_entity
from mailroom.mail.limits import Budget
from mailroom.mail.message import Message, UnreadableMessageError
from mailroom.mail.mime import entity_text, is_binary
from mailroom.mail.plain import clean

KNOWN_FIELDS = ("From", "To", "Subject", "Date", "Received", "Message-ID", "MIME-Version", "Sender")


def parse(raw: bytes) -> Message:
    """The message in `raw`, in bounded time and memory (mail/limits.py).

    Raises:
        UnreadableMessageError: there is nothing in it to read; nothing else, for any bytes.
    """
    try:
        return read_message(raw)
    except UnreadableMessageError:
        raise
    except Exception as error:
        # The edge where a stranger's bytes come in: one message that trips the library or us must
        # not end a whole mailbox. The tests call read_message, so a fault of ours shows there.
        raise UnreadableMessageError(f"reading it failed ({type(error).__name__})") from error


def read_message(raw: bytes) -> Message:
    """As `parse`, without the net under it."""
    if not raw.strip():
        raise UnreadableMessageError("the message is empty")
    budget = Budget()
    entity = read_entity(raw, budget)
    headers = entity.headers
    if not any(name in headers for name in KNOWN_FIELDS) and is_binary(raw):
        raise UnreadableMessageError("this is binary data, not a message")
    subject = headers.text("Subject")
    body = clean(entity_text(entity, budget))
    if not subject and not body:
        raise UnreadableMessageError("the message has neither a subject nor a text")
    return Message(
        subject=subject,
        body=body,
        sender=headers.text("From") or headers.text("Sender"),
        to=headers.text("To"),
        date=headers.text("Date", 200),
        message_id=headers.text("Message-ID", 998),
    )
