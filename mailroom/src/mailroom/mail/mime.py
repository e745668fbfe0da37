"""An entity to the text a person would read: parts chosen, decoded and put in order.

multipart/alternative   one of its parts: plain text if it has any, else HTML, else the last
multipart/related       its first part; the rest are that page's pictures
multipart/signed        its first part
any other multipart     all parts, in order
message/rfc822          From, Date and Subject on a line each, then its own text
text/*                  its text; HTML and calendars converted
all else, attachments   a line with file name and type; never opened
"""

from __future__ import annotations

import re
from collections.abc import Callable

from mailroom.mail.calendar import calendar_to_text
from mailroom.mail.charsets import decode_text
from mailroom.mail.entity import Entity, split_entity, split_multipart
from mailroom.mail.headers import Headers
from mailroom.mail.html import html_to_text
from mailroom.mail.limits import MAX_DEPTH, Budget
from mailroom.mail.plain import clean, one_line, without_markup
from mailroom.mail.transfer import undo_transfer_encoding

REPORTS = frozenset(
    {"message/delivery-status", "message/global-delivery-status"}
    | {"message/disposition-notification", "message/feedback-report"}
)
"""Made of fields in the manner of headers: read as text."""
MESSAGES = frozenset({"message/rfc822", "message/global", "message/news"})
HEADERS_ONLY = frozenset({"text/rfc822-headers", "message/rfc822-headers"})
SIGNATURES = frozenset(
    ("application/pgp-signature", "application/pkcs7-signature", "application/x-pkcs7-signature")
)
META_CHARSET = re.compile(rb"<meta[^>]{0,200}charset\s*=\s*[\"']?\s*([\w.:-]{1,40})", re.I)
LOOKS_LIKE_HTML = re.compile(r"\s*(?:<!doctype html|<html[\s>])", re.I)
RICH_COMMAND = re.compile(r"<param>[^<]{0,200}</param>|</?[a-zA-Z0-9-]{1,60}>", re.I)
CONTROL_BYTES = re.compile(rb"[\x00-\x08\x0e-\x1a\x1c-\x1f\x7f]")
MAX_REPORT_CHARS = 4_000
MAX_PLAIN_BYTES = 1_000_000
MAX_CALENDAR_BYTES = 100_000
IDENTITY = frozenset({"", "7bit", "8bit", "binary"})


def entity_text(
    entity: Entity, budget: Budget, *, depth: int = 0, default: str = "text/plain"
) -> str:
    """The text of `entity` and all inside it, cleaned; at most what `budget` has left."""
    content_type = entity.headers.content_type or default
    if depth > MAX_DEPTH or budget.text_chars <= 0:
        return "[more, not shown]"
    if content_type.startswith("multipart/"):
        parts = split_multipart(entity, budget)
        if parts:
            return _multipart_text(content_type, parts, budget, depth)
        content_type = "text/plain"  # it says multipart and is not
    if content_type in SIGNATURES:
        return ""
    if content_type in MESSAGES:
        return _message_text(split_entity(_decoded(entity, budget), budget), budget, depth)
    if content_type in HEADERS_ONLY:
        return _summary(
            split_entity(_decoded(entity, budget), budget).headers, "Headers of the message"
        )
    if content_type in REPORTS:
        return _take(clean(decode_text(_decoded(entity, budget)))[:MAX_REPORT_CHARS], budget)
    if content_type == "text/calendar":
        raw = _decoded(entity, budget)[:MAX_CALENDAR_BYTES]
        text = clean(decode_text(raw, entity.headers.charset))
        return _take(calendar_to_text(text, entity.headers.method), budget)
    if not content_type.startswith("text/") or _is_attachment(entity.headers):
        return _attachment_line(entity.headers, content_type)
    return _take(_leaf_text(entity, content_type, budget), budget)


def is_binary(raw: bytes) -> bool:
    """Whether the first 64 KB hold more control characters than any text does."""
    sample = raw[:65_536]
    return len(CONTROL_BYTES.findall(sample)) > 4 + len(sample) // 20


def _multipart_text(content_type: str, parts: list[Entity], budget: Budget, depth: int) -> str:
    default = "message/rfc822" if content_type == "multipart/digest" else "text/plain"

    def text_of(part: Entity) -> str:
        return entity_text(part, budget, depth=depth + 1, default=default)

    if content_type in ("multipart/related", "multipart/signed"):
        return next((text for text in map(text_of, parts) if text), "")
    if content_type == "multipart/alternative":
        return _alternative_text(parts, text_of)
    return "\n\n".join(text for text in map(text_of, parts) if text)


def _alternative_text(parts: list[Entity], text_of: Callable[[Entity], str]) -> str:
    """One of the parts, and a calendar besides, since its words are often in no other part."""
    by_type = {part.headers.content_type or "text/plain": part for part in reversed(parts)}
    calendar = by_type.pop("text/calendar", None)
    shown = [by_type.pop(kind) for kind in ("text/plain", "text/html") if kind in by_type]
    shown += [part for part in parts if part in by_type.values()]
    text = next((text for text in map(text_of, shown) if text), "")
    return "\n\n".join(filter(None, (text, text_of(calendar) if calendar else "")))


def _message_text(entity: Entity, budget: Budget, depth: int) -> str:
    text = entity_text(entity, budget, depth=depth + 1)
    summary = _take(_summary(entity.headers, "Attached message"), budget)
    return f"{summary}\n\n{text}".strip()


def _summary(headers: Headers, title: str) -> str:
    fields = ((name, headers.text(name, 300)) for name in ("From", "To", "Date", "Subject"))
    return "\n".join([f"--- {title} ---", *(f"{name}: {value}" for name, value in fields if value)])


def _leaf_text(entity: Entity, content_type: str, budget: Budget) -> str:
    raw = _decoded(entity, budget)
    charset = entity.headers.charset
    if is_binary(raw) and not charset.lower().startswith("utf-16"):
        return _attachment_line(entity.headers, "binary data")
    if not charset and (meta := META_CHARSET.search(raw, 0, 4_096)):
        charset = meta.group(1).decode("ascii")
    if content_type == "text/html":
        return html_to_text(decode_text(raw, charset), budget)
    text = decode_text(raw[:MAX_PLAIN_BYTES], charset)
    if LOOKS_LIKE_HTML.match(text):
        return html_to_text(text, budget)
    if content_type in ("text/enriched", "text/richtext"):
        text = RICH_COMMAND.sub("", text.replace("<nl>", "\n")).replace("<<", "<")
    return without_markup(clean(text)[: 2 * budget.text_chars])


def _decoded(entity: Entity, budget: Budget) -> bytes:
    """The body without its transfer encoding, as far as the budget for decoding goes."""
    if entity.headers.transfer_encoding.lower() in IDENTITY and _is_message(entity):
        return entity.body  # nothing to decode here; its parts will pay
    body = entity.body[: budget.decode_bytes]
    budget.decode_bytes -= len(body)
    return undo_transfer_encoding(body, entity.headers.transfer_encoding)


def _is_message(entity: Entity) -> bool:
    return entity.headers.content_type in MESSAGES


def _is_attachment(headers: Headers) -> bool:
    """A text part that is a file. Without a name it is the text that some mailers mark so."""
    return headers.disposition == "attachment" and bool(headers.file_name)


def _attachment_line(headers: Headers, content_type: str) -> str:
    name = headers.file_name
    kind = one_line(content_type, 80)
    return f"[attachment: {name} ({kind})]" if name else f"[attachment: {kind}]"


def _take(text: str, budget: Budget) -> str:
    text = text[: max(0, budget.text_chars)].rstrip()
    budget.text_chars -= len(text)
    return text
