"""What makes two messages near-duplicates: the same text once digits, codes and URLs are masked."""

from __future__ import annotations

import hashlib
import re

MASK = "#"

_URL = re.compile(
    r"\b(?:https?://|www\.)\S+"
    r"|[\w.+-]+@[\w-]+(?:\.[\w-]+)+"
    r"|\b(?:[a-z0-9-]+\.)+[a-z]{2,}(?:/[^\s,;)\"']*)?",
    re.IGNORECASE,
)
_WITH_DIGIT = re.compile(r"\b[\w-]*\d[\w-]*\b")
_CAPITALS = re.compile(r"\b[A-Z][A-Z_-]{3,}\b")
_WORDS = re.compile(rf"\w+|{MASK}")
_REPEATED = re.compile(rf"{MASK}(?: {MASK})+")


def mask(text: str) -> str:
    """The text with what varies between copies of one template as `#`.

    Masked are URLs, addresses, every word with a digit, and capitals (SAVEBIG), unless the whole
    text shouts. Case and punctuation go too: the coarser the mask, the safer the split.
    """
    text = _URL.sub(MASK, text)
    text = _WITH_DIGIT.sub(MASK, text)
    capitals = sum(len(word) for word in _CAPITALS.findall(text))
    if capitals <= 0.5 * sum(map(str.isalpha, text)):
        text = _CAPITALS.sub(MASK, text)
    return _REPEATED.sub(MASK, " ".join(_WORDS.findall(text.casefold())))


def group_of(subject: str, body: str) -> str:
    """The key that all near-duplicates of a message share, from its whole text."""
    return hashlib.sha256(mask(f"{subject} {body}").encode()).hexdigest()[:16]
