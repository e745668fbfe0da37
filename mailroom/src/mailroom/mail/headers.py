"""Header fields of a message or a part, decoded and bounded."""

from __future__ import annotations

import binascii
import email.message
import email.parser
import email.policy
import email.utils
import re
from typing import Any

from mailroom.mail.charsets import decode_text
from mailroom.mail.limits import MAX_FIELD_CHARS, MAX_PARAMETER_CHARS
from mailroom.mail.plain import clean, one_line
from mailroom.mail.transfer import undo_base64

ENCODED_WORD = re.compile(r"=\?([^?\s]{1,60})\?([bBqQ])\?(.*?)(?:\?=|$)")
"""RFC 2047 section 2, and its common misspellings: spaces and question marks inside, no end."""
GAP = re.compile(r"(?<=\?=)\s+(?==\?)")
"""White space between encoded words is not part of the text (RFC 2047 section 6.2)."""


class Headers:
    """The fields of one header block, in order; the first of several with one name counts."""

    def __init__(self, block: bytes) -> None:
        parsed = email.parser.BytesHeaderParser(policy=email.policy.compat32).parsebytes(block)
        self._fields: dict[str, str] = {}
        for name, value in parsed.raw_items():
            self._fields.setdefault(name.lower(), str(value))
        payload = parsed.get_payload()
        self.behind = (payload if isinstance(payload, str) else "").encode(
            "utf-8", "surrogateescape"
        )
        """Bytes of the block from its first line that is no header field."""

    def __len__(self) -> int:
        return len(self._fields)

    def __contains__(self, name: str) -> bool:
        return name.lower() in self._fields

    def text(self, name: str, max_chars: int = 1_000) -> str:
        """The field decoded, on one line, cut to `max_chars`; empty if there is none."""
        return one_line(decode_words(self._raw(name, MAX_FIELD_CHARS)), max_chars)

    @property
    def content_type(self) -> str:
        """`type/subtype` in lower case; empty if none is given, text/plain if it is no type."""
        if "content-type" not in self:
            return ""
        return self._with_parameters("Content-Type").get_content_type()

    @property
    def boundary(self) -> str:
        return str(self._parameter("Content-Type", "boundary"))

    @property
    def charset(self) -> str:
        return str(self._parameter("Content-Type", "charset"))

    @property
    def method(self) -> str:
        """The `method` of a calendar part."""
        return str(self._parameter("Content-Type", "method"))

    @property
    def disposition(self) -> str:
        """`inline`, `attachment` or whatever else stands there; empty if nothing does."""
        return self._raw("Content-Disposition", 100).partition(";")[0].strip().lower()

    @property
    def transfer_encoding(self) -> str:
        return self._raw("Content-Transfer-Encoding", 100).partition(";")[0].strip()

    @property
    def file_name(self) -> str:
        """The name that the sender gave a part, without folders; empty if none."""
        name = self._parameter("Content-Disposition", "filename") or self._parameter(
            "Content-Type", "name"
        )
        return one_line(decode_words(name), 200).replace("\\", "/").rpartition("/")[2]

    def _raw(self, name: str, max_chars: int) -> str:
        """The field unfolded, its raw 8-bit bytes decoded."""
        value = self._fields.get(name.lower(), "")[:max_chars]
        return clean(decode_text(value.encode("utf-8", "surrogateescape"))).replace("\n", " ")

    def _with_parameters(self, name: str) -> email.message.Message:
        """The field alone in a message of the standard library, which knows RFC 2231."""
        message = email.message.Message()
        message[name] = self._raw(name, MAX_PARAMETER_CHARS)
        return message

    def _parameter(self, field: str, name: str) -> str:
        try:
            value: Any = self._with_parameters(field).get_param(name, "", header=field)
        except (ValueError, LookupError, TypeError):  # RFC 2231 numbering gone wrong
            return ""
        if isinstance(value, tuple):  # RFC 2231: (charset, language, percent-decoded Latin-1)
            charset, _, text = value
            return decode_text(text.encode("latin-1", "replace"), charset or "")
        return email.utils.unquote(str(value)).strip()


def decode_words(text: str) -> str:
    """`text` with its RFC 2047 encoded words decoded; what cannot be decoded stays as it was."""
    pieces: list[str] = []
    held = b""  # bytes of neighbouring words: some mailers cut a character between two
    held_charset = ""
    at = 0
    text = GAP.sub("", text)
    for word in ENCODED_WORD.finditer(text):
        charset, encoding, digits = word.groups()
        if word.start() > at or charset.lower() != held_charset.lower():
            pieces += [decode_text(held, held_charset), text[at : word.start()]]
            held = b""
        held_charset = charset
        held += _undo_word(encoding, digits)
        at = word.end()
    pieces += [decode_text(held, held_charset), text[at:]]
    return "".join(pieces)


def _undo_word(encoding: str, digits: str) -> bytes:
    raw = digits.encode("utf-8", "surrogatepass")
    if encoding in "bB":
        return undo_base64(raw)
    return binascii.a2b_qp(raw, header=True)
