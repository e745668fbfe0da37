"""Bytes to text, whatever the sender claims about them."""

from __future__ import annotations

import re

ISO_2022_JP = re.compile(rb"\x1b(?:\$[@B]|\([JI])")
"""Escape sequences that no other encoding in mail uses."""

CODECS = {
    **dict.fromkeys(("utf-8", "utf8", "unicode-1-1-utf-8", "cp65001", "utf-8-sig"), "utf-8-sig"),
    **dict.fromkeys(("utf-16", "utf16", "unicode"), "utf-16"),
    **dict.fromkeys(("utf-16le", "utf-16-le"), "utf-16-le"),
    **dict.fromkeys(("utf-16be", "utf-16-be"), "utf-16-be"),
    **dict.fromkeys(("utf-7", "unicode-1-1-utf-7", "x-unicode-2-0-utf-7"), "utf-7"),
    # Windows' superset of each, because that is what senders mean.
    **dict.fromkeys(
        {"iso-8859-1", "iso8859-1", "iso_8859-1", "8859-1", "latin1", "latin-1", "l1"}
        | {"windows-1252", "cp1252", "x-ansi"},
        "cp1252",
    ),
    **dict.fromkeys(("iso-8859-9", "latin5", "windows-1254", "cp1254"), "cp1254"),
    **dict.fromkeys(("iso-8859-8-i", "iso-8859-8-e", "iso-8859-8", "logical"), "iso8859-8"),
    **dict.fromkeys(("iso-8859-11", "tis-620", "windows-874", "cp874"), "cp874"),
    **dict.fromkeys(
        {"ks_c_5601-1987", "ks-c-5601-1987", "ks_c_5601", "ksc5601", "ksc_5601", "euc-kr"}
        | {"euckr", "cp949", "windows-949", "x-windows-949", "uhc", "ks_c_5601-1989"},
        "cp949",
    ),
    **dict.fromkeys(
        ("gb2312", "gb_2312-80", "gbk", "x-gbk", "cp936", "gb18030", "euc-cn", "hz-gb-2312-8bit"),
        "gb18030",
    ),
    **dict.fromkeys(("hz", "hz-gb-2312"), "hz"),
    **dict.fromkeys(("big5", "big5-eten", "cn-big5", "x-x-big5", "cp950"), "cp950"),
    "big5-hkscs": "big5hkscs",
    **dict.fromkeys(
        ("shift_jis", "shift-jis", "sjis", "x-sjis", "ms_kanji", "cp932", "windows-31j"), "cp932"
    ),
    **dict.fromkeys(("euc-jp", "eucjp", "x-euc-jp"), "euc_jp"),
    **dict.fromkeys(
        ("iso-2022-jp", "iso-2022-jp-1", "iso-2022-jp-2", "csiso2022jp"), "iso2022_jp_2"
    ),
    "iso-2022-kr": "iso2022_kr",
    **{f"iso-8859-{n}": f"iso8859-{n}" for n in (2, 3, 4, 5, 6, 7, 10, 13, 14, 15, 16)},
    **{f"iso8859-{n}": f"iso8859-{n}" for n in (2, 5, 7, 13, 15)},
    "latin2": "iso8859-2",
    "latin-9": "iso8859-15",
    **{f"windows-{n}": f"cp{n}" for n in (1250, 1251, 1253, 1255, 1256, 1257, 1258)},
    **{f"cp{n}": f"cp{n}" for n in (437, 850, 852, 855, 858, 866, 1250, 1251, 1253, 1255, 1256)},
    **{f"cp-{n}": f"cp{n}" for n in (437, 850, 1250, 1251, 1252)},
    **dict.fromkeys(("koi8-r", "koi8r", "koi8"), "koi8_r"),
    "koi8-u": "koi8_u",
    **dict.fromkeys(("macintosh", "mac", "x-mac-roman"), "mac_roman"),
    "x-mac-cyrillic": "mac_cyrillic",
    "x-mac-ce": "mac_latin2",
}
"""Charset as mail names it -> our codec. A list, not Python's own look-up: that one also knows
`punycode` (quadratic), `unicode_escape` (warns) and codecs that are no charset at all."""


SEVEN_BIT = frozenset({"utf-7", "hz", "iso2022_jp_2", "iso2022_kr", "utf-16-le", "utf-16-be"})
"""Codecs whose text may consist of ASCII bytes and yet be no ASCII."""
DOUBLE_BYTE = frozenset({"cp932", "cp949", "cp950", "big5hkscs", "gb18030", "euc_jp", "utf-16"})
MAX_ACCIDENTS = 3
"""Characters of UTF-8 that double-byte text may show by chance (a few per cent for each pair)."""

GUESSES = (
    ("cp932", re.compile("[\u3041-\u30fc]"), 0.3),  # kana, with characters that are not
    ("euc_jp", re.compile("[\u3041-\u30fc]"), 0.3),
    ("cp949", re.compile("[\uac00-\ud7a3]"), 0.85),  # Hangul
    ("koi8_r", re.compile("[\u0430-\u044f]"), 0.7),  # small Cyrillic letters
    ("cp1251", re.compile("[\u0430-\u044f]"), 0.7),
    ("gb2312", re.compile("[\u3000-\u3015\u4e00-\u9fff\uff01-\uff5d]"), 0.95),  # Han, punctuation
    ("cp950", re.compile("[\u3000-\u3015\u4e00-\u9fff\uff01-\uff5d]"), 0.95),
)
"""(codec, characters frequent in its languages, least share of them among those beyond ASCII);
in this order, because Korean text passes for Chinese more easily than the other way round."""
MIN_GUESSABLE_SHARE = 0.3
"""Of bytes beyond ASCII. Western text has fewer, all others more."""


def decode_text(raw: bytes, charset: str = "") -> str:
    """`raw` as text, by `charset` if that can be so, otherwise by the best guess. Never raises.

    What no encoding explains becomes U+FFFD. The result may hold control characters and lone
    surrogates (UTF-7 can make them): `plain.clean` takes those out.
    """
    codec = CODECS.get(charset.strip().strip("\"'").lower().partition("*")[0])
    if raw.isascii():
        if ISO_2022_JP.search(raw):
            return raw.decode("iso2022_jp_2", "replace")
        return raw.decode(codec if codec in SEVEN_BIT else "ascii", "replace")
    # Bytes beyond ASCII that form valid UTF-8 are UTF-8, whatever else is claimed: other text does
    # so by accident next to never, except for a word or two of a double-byte charset.
    try:
        text = raw.decode("utf-8-sig")
        if codec not in DOUBLE_BYTE or sum(not c.isascii() for c in text[:1_000]) > MAX_ACCIDENTS:
            return text
    except UnicodeDecodeError:
        pass
    if codec is None or codec == "utf-8-sig" or codec in SEVEN_BIT:
        codec = "utf-8-sig" if _is_nearly_utf8(raw) else _guess(raw)
    return raw.decode(codec, "replace")


def _is_nearly_utf8(raw: bytes) -> bool:
    """Whether only a few broken places (a cut character, a stray byte) keep it from UTF-8."""
    text = raw.decode("utf-8", "replace")
    num_broken = text.count("\ufffd")
    return sum(not character.isascii() for character in text) > 2 * num_broken


def _guess(raw: bytes) -> str:
    """The codec under which `raw` looks most like a language; Western European by default."""
    sample = raw[:20_000]
    if sum(byte > 127 for byte in sample) < MIN_GUESSABLE_SHARE * len(sample):
        return "cp1252"
    for codec, frequent, least_share in GUESSES:
        foreign = [c for c in sample.decode(codec, "replace") if not c.isascii()]
        if len(frequent.findall("".join(foreign))) >= least_share * len(foreign):
            return codec
    return "cp1252"
