"""A message as it came out of a source: bytes, a place in the order, and where it stood."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from mailroom.errors import MailroomError

MAX_MESSAGE_BYTES = 64 * 2**20
"""A larger one is named and passed over; mail servers refuse them from about half this size."""


class SourceError(MailroomError):
    """A place that was named is no source, or cannot be opened. Misuse: exit code 2."""


@dataclass(frozen=True, slots=True)
class RawMessage:
    index: int
    """Its place in the whole source, from 0."""
    raw: bytes
    """As it was sent: without the envelope line and the quoting that an mbox adds."""
    origin: str
    """For people: a path, with `#n` for the n-th message of an mbox, from 1."""
    error: str | None = None
    """Why there are no bytes, where the source knows of a message that it could not read."""


def too_large(origin: str) -> RawMessage:
    limit = f"{MAX_MESSAGE_BYTES // 2**20} MB"
    return RawMessage(0, b"", origin, f"it is larger than {limit}, the most that is read")


def read_message_file(path: Path) -> RawMessage:
    """The one message of a file. A file that cannot be read is a message with an error."""
    try:
        with path.open("rb") as stream:
            raw = stream.read(MAX_MESSAGE_BYTES + 1)
    except OSError as error:
        return RawMessage(0, b"", str(path), f"cannot read the file: {error.strerror or error}")
    return too_large(str(path)) if len(raw) > MAX_MESSAGE_BYTES else RawMessage(0, raw, str(path))
