"""How much work one message may cost: whoever sends it chooses the bytes, we choose the bounds.

They are counts and sizes, not a clock: the same message gives the same text on any machine.
Together they keep the worst messages that we could build under a second (test_mail_cost.py).
"""

from __future__ import annotations

from dataclasses import dataclass

MAX_RAW_BYTES = 32 * 2**20
"""Bytes past this are not looked at; what stands there is the tail of a large attachment."""
MAX_FIELD_CHARS = 8_000
"""Length of one header field before it is decoded."""
MAX_PARAMETER_CHARS = 4_000
"""Length of a Content-Type or Content-Disposition; the standard library's parser is quadratic."""
MAX_DEPTH = 20
"""Multiparts and messages inside one another."""
MAX_HTML_CHARS = 1_000_000
MAX_HTML_TAGS = 10_000
"""Tree building is quadratic in the nesting; a long newsletter has about 5,000 tags."""


@dataclass(slots=True)
class Budget:
    """What is left to spend on one message."""

    parts: int = 100
    """Parts of all multiparts together."""
    header_bytes: int = 384 * 2**10
    """Header blocks of all parts together. The longest seen in the wild has about 200 KB."""
    scan_bytes: int = 40 * 2**20
    """Bytes to search for boundaries, over all levels."""
    decode_bytes: int = 2 * 2**20
    """Bytes of text to decode, as they came."""
    text_chars: int = 200_000
    """Characters of text to give back."""
    html_tags: int = MAX_HTML_TAGS
    html_chars: int = MAX_HTML_CHARS
