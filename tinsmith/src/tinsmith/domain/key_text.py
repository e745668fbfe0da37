"""How an API key is spelled: a fixed beginning and a checksum, so that secret scanners know one.

    tml-tinsmith-<36 random characters><6 of checksum>      letters and digits, base 62

The checksum is the CRC-32 of what stands before it. It keeps a scanner from crying at text that
only looks like a key, and a mistyped key from being looked up; it proves nothing.
"""

from __future__ import annotations

import hashlib
import re
import secrets
import string
import zlib

PREFIX = "tml-tinsmith-"
"""The SDK takes only keys that begin with tml-."""
NUM_RANDOM = 36
NUM_CHECK = 6
PATTERN = rf"{PREFIX}[0-9A-Za-z]{{{NUM_RANDOM + NUM_CHECK}}}"
"""A regular expression for secret scanners."""
_DIGITS = string.digits + string.ascii_uppercase + string.ascii_lowercase
_KEY = re.compile(PATTERN, re.ASCII)


def new_key() -> str:
    """A key that nobody can guess: 214 random bits."""
    body = PREFIX + "".join(secrets.choice(_DIGITS) for _ in range(NUM_RANDOM))
    return body + _checksum(body)


def is_key(text: str) -> bool:
    """Whether it is spelled as ours are, checksum included."""
    body = text[:-NUM_CHECK]
    return _KEY.fullmatch(text) is not None and text[-NUM_CHECK:] == _checksum(body)


def digest_of(key: str) -> bytes:
    """What is kept of a key: its SHA-256. With so many random bits, no slower hash is needed."""
    return hashlib.sha256(key.encode("utf-8", "surrogatepass")).digest()


def key_id_of(digest: bytes) -> str:
    """The name by which a key is listed and revoked; it gives nothing of the key away."""
    return f"key-{digest.hex()[:16]}"


def _checksum(body: str) -> str:
    value, digits = zlib.crc32(body.encode()), ""
    for _ in range(NUM_CHECK):
        value, digit = divmod(value, len(_DIGITS))
        digits = _DIGITS[digit] + digits
    return digits
