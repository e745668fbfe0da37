"""Content-Transfer-Encoding, undone without ever giving up."""

from __future__ import annotations

import binascii
import re
import string

NOT_BASE64 = bytes(set(range(256)) - set(string.ascii_letters.encode() + b"0123456789+/"))
UU_BEGIN = re.compile(rb"^begin(?:-base64)? [0-7]{3,4} [^\n]*\n", re.MULTILINE)


def undo_transfer_encoding(body: bytes, encoding: str) -> bytes:
    """`body` as the sender had it. An unknown or identity encoding leaves it as it is."""
    match encoding.strip().lower():
        case "base64":
            return undo_base64(body)
        case "quoted-printable" | "quotedprintable" | "quoted_printable":
            return binascii.a2b_qp(body)
        case "x-uuencode" | "uuencode" | "uue" | "x-uue":
            return undo_uuencode(body)
        case _:
            return body


def undo_base64(body: bytes) -> bytes:
    """Decode what is of the alphabet; inner padding, odd lengths and line noise are skipped."""
    digits = body.translate(None, NOT_BASE64)
    if len(digits) % 4 == 1:  # six bits make no byte
        digits = digits[:-1]
    return binascii.a2b_base64(digits + b"=" * (-len(digits) % 4))


def undo_uuencode(body: bytes) -> bytes:
    """Decode the first file in `body`; a body without a `begin` line is given back as it is."""
    begin = UU_BEGIN.search(body)
    if begin is None:
        return body
    decoded = bytearray()
    for line in body[begin.end() :].split(b"\n"):
        if line.rstrip() in (b"end", b"`", b""):
            break
        try:
            decoded += binascii.a2b_uu(line)
        except binascii.Error:  # a line with characters behind its count: take what the count says
            num_digits = (((line[0] - 32) & 63) * 4 + 5) // 3
            try:
                decoded += binascii.a2b_uu(line[:num_digits])
            except binascii.Error:
                break
    return bytes(decoded)
