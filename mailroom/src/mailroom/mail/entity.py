"""A message or a part of one: header fields and the bytes below them (RFC 2045's "entity").

The header block goes to the standard library. The body is cut at its boundaries here, from the
outside in, by one search for each multipart: the library's own parser looks at every line once
for every level it stands in and recurses with the sender's nesting, which has no bound.
"""

from __future__ import annotations

import codecs
import re
from dataclasses import dataclass

from mailroom.mail.headers import Headers
from mailroom.mail.limits import MAX_RAW_BYTES, Budget

ENVELOPE = re.compile(rb">?From [^\n]*\n")
"""The line that an mbox puts above a message."""
LEADING_BLANKS = re.compile(rb"(?:[ \t]*\n)+")
SNIFFED_BYTES = 65_536
SNIFFED_BOUNDARY = re.compile(rb"\n--([^\s][^\n]{0,99}?)[ \t]*\n(?:Content-[A-Za-z-]+:|\n)", re.I)


@dataclass(frozen=True, slots=True)
class Entity:
    headers: Headers
    body: bytes
    """With `\\n` line ends, transfer encoding still on."""


def read_entity(raw: bytes, budget: Budget) -> Entity:
    """The outermost entity of a message as it came, with any line ends."""
    raw = raw[:MAX_RAW_BYTES]
    for mark, charset in ((codecs.BOM_UTF16_LE, "utf-16-le"), (codecs.BOM_UTF16_BE, "utf-16-be")):
        if raw.startswith(mark):  # a message saved by a Windows editor
            raw = raw[2:].decode(charset, "replace").encode()
    raw = raw.removeprefix(codecs.BOM_UTF8).replace(b"\r\n", b"\n").replace(b"\r", b"\n")
    if blanks := LEADING_BLANKS.match(raw):
        raw = raw[blanks.end() :]
    while envelope := ENVELOPE.match(raw):
        raw = raw[envelope.end() :]
    return split_entity(raw, budget)


def split_entity(raw: bytes, budget: Budget) -> Entity:
    """Header fields and body. Without a blank line between them, the first line that is no field
    begins the body; without any field, all is body."""
    if raw.startswith(b"\n"):
        return Entity(Headers(b""), raw[1:])
    blank = raw.find(b"\n\n")
    end = blank + 1 if blank >= 0 else len(raw)
    block = raw[: min(end, budget.header_bytes)]
    budget.header_bytes -= len(block)
    headers = Headers(block)
    if headers.behind.strip():
        return Entity(headers, headers.behind + raw[len(block) :])
    return Entity(headers, raw[end + 1 :])


def split_multipart(entity: Entity, budget: Budget) -> list[Entity]:
    """The parts of a multipart, as far as the budget goes; none if no boundary is found."""
    if len(entity.body) > budget.scan_bytes:
        return []
    budget.scan_bytes -= len(entity.body)
    body = b"\n" + entity.body
    boundary = entity.headers.boundary.encode("utf-8", "surrogateescape")
    parts = _split_at(body, boundary, budget) if boundary else []
    if not parts and (sniffed := SNIFFED_BOUNDARY.search(body, 0, SNIFFED_BYTES)):
        parts = _split_at(body, sniffed.group(1), budget)
    return parts


def _split_at(body: bytes, boundary: bytes, budget: Budget) -> list[Entity]:
    delimiter = re.compile(rb"\n--" + re.escape(boundary) + rb"(--)?[ \t]{0,100}(?=\n|\Z)")
    parts: list[Entity] = []
    start: int | None = None
    for found in delimiter.finditer(body):
        if start is not None:
            parts.append(split_entity(body[start : found.start()], budget))
            budget.parts -= 1
        start = found.end() + 1
        if found.group(1) or budget.parts <= 0:
            start = None
            break
    if start is not None and start < len(body):  # the closing delimiter is missing
        parts.append(split_entity(body[start:], budget))
        budget.parts -= 1
    return parts
