"""mbox files, read as a stream: one message in memory at a time, and never a byte written.

A message begins at a line that starts with "From ", stands at the top or below an empty line, and
looks like an envelope: the sender and then a date. Mail text holds such lines as well, so writers
put ">" before them, in two dialects that no file declares:

    mboxo    before "From " only; ">From " in a message stays as it is
    mboxrd   before any number of ">" with "From " behind them

`unquote` tells them apart. Content-Length (mboxcl) is not believed: it is wrong too often.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from itertools import chain
from typing import BinaryIO

from mailroom.sources.raw_message import MAX_MESSAGE_BYTES, RawMessage, too_large

LINE_BYTES = 2**20
"""Longest piece of a line that is read at once."""
MONTH = rb"(?:Jan|Feb|Mar|Apr|May|Jun|Jul|Aug|Sep|Oct|Nov|Dec)"
DATED_ENVELOPE = re.compile(
    rb"From .{0,300}?\b(?:Mon|Tue|Wed|Thu|Fri|Sat|Sun),? +"
    rb"(?:"
    + MONTH
    + rb" +\d{1,2}|\d{1,2} +"
    + MONTH
    + rb")(?: +\d{4})? +\d{1,2}:\d{2}(?::\d{2})?\b",
    re.IGNORECASE,
)
BARE_ENVELOPE = re.compile(rb"From \S{1,300}[ \t]*(?:\r?\n)?\Z")
"""Without a date; believed only in a file that begins with one."""
QUOTED_FROM = re.compile(rb"^(>+)From ", re.MULTILINE)
LEADING_MARKS = re.compile(rb">*")


def read_stream(stream: BinaryIO, origin: str, *, is_mbox: bool = False) -> Iterator[RawMessage]:
    """An mbox, if the first line that is not empty starts with "From "; else one message.

    Nothing at all is a message that cannot be read, unless it is known to be an mbox (`is_mbox`),
    which may well hold none.

    A stream that fails on the way ends with a message that says so.
    """
    lines = _lines(stream)
    head: list[bytes] = []
    try:
        for line in lines:
            head.append(line)
            if line.strip():
                break
        if not head or not head[-1].strip():
            if not is_mbox:
                yield _one_message(head, origin)
            return
        if head[-1].startswith(b"From "):
            yield from _split(chain(head[-1:], lines), origin)
        else:
            yield _one_message(chain(head, lines), origin)
    except OSError as error:
        problem = f"reading stopped here: {error.strerror or error}"
        yield RawMessage(0, b"", origin, problem)


def starts_like_mbox(stream: BinaryIO) -> bool:
    """Whether `read_stream` would take it for an mbox. Reads from `stream`; so does emptiness."""
    first = next((line for line in _lines(stream) if line.strip()), b"From ")
    return first.startswith(b"From ")


def unquote(raw: bytes) -> bytes:
    """`raw` without the ">" that the mbox's writer put before "From ".

    The neighbouring lines tell whose the ">" is. In a reply they carry as many as the line had
    when it was sent: one fewer than now if the writer added one (mboxrd, or mboxo before a bare
    "From "), as many as now if not (mboxo). With no such neighbour the writer added one.
    """
    return QUOTED_FROM.sub(lambda found: _unquoted(raw, found), raw)


def _unquoted(raw: bytes, found: re.Match[bytes]) -> bytes:
    num_marks = len(found[1])
    start, end = found.start(), raw.find(b"\n", found.end())
    before = raw[raw.rfind(b"\n", 0, max(0, start - 1)) + 1 : max(0, start - 1)]
    after = raw[end + 1 : end + 1 + num_marks + 2] if end >= 0 else b""
    neighbours = {_num_marks(before), _num_marks(after)}
    is_as_sent = num_marks in neighbours and num_marks - 1 not in neighbours
    return found[0] if is_as_sent else found[0][1:]


def _num_marks(line: bytes) -> int:
    marks = LEADING_MARKS.match(line)
    return len(marks[0]) if marks else 0


def _lines(stream: BinaryIO) -> Iterator[bytes]:
    return iter(lambda: stream.readline(LINE_BYTES), b"")


def _split(lines: Iterable[bytes], origin: str) -> Iterator[RawMessage]:
    """The messages of an mbox whose first line is an envelope."""
    message: list[bytes] = []
    envelope = DATED_ENVELOPE
    num_messages, num_bytes = 0, 0
    is_line_start = was_blank = True
    for line in lines:
        if is_line_start and was_blank and line.startswith(b"From "):
            if num_messages == 0:
                envelope = DATED_ENVELOPE if DATED_ENVELOPE.match(line) else BARE_ENVELOPE
            if num_messages == 0 or envelope.match(line):
                if num_messages:
                    yield _message(message, num_bytes, f"{origin}#{num_messages}")
                num_messages += 1
                message, num_bytes = [], 0
                is_line_start, was_blank = line.endswith(b"\n"), False
                continue
        num_bytes += len(line)
        if num_bytes <= MAX_MESSAGE_BYTES:
            message.append(line)
        was_blank = is_line_start and line in (b"\n", b"\r\n")
        is_line_start = line.endswith(b"\n")
    if num_messages:
        yield _message(message, num_bytes, f"{origin}#{num_messages}")


def _message(lines: list[bytes], num_bytes: int, origin: str) -> RawMessage:
    if num_bytes > MAX_MESSAGE_BYTES:
        return too_large(origin)
    if len(lines) > 1 and lines[-1] in (b"\n", b"\r\n"):
        lines.pop()  # the writer's, to set the next envelope off
    return RawMessage(0, unquote(b"".join(lines)), origin)


def _one_message(lines: Iterable[bytes], origin: str) -> RawMessage:
    message, num_bytes = [], 0
    for line in lines:
        num_bytes += len(line)
        if num_bytes > MAX_MESSAGE_BYTES:
            return too_large(origin)
        message.append(line)
    return RawMessage(0, b"".join(message), origin)
