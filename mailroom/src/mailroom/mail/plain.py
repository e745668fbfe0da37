"""Plain text, made safe to show and to encode, and free of what no reader reads."""

from __future__ import annotations

import re

LINE_BREAK = re.compile("\r\n|[\n\r\x0b\x0c\x1c-\x1e\x85\u2028\u2029]")
"""Wherever str.splitlines would break: a text with none of these stands on one line."""
UNSEEN = re.compile(
    "[\x00-\x08\x0e-\x1f\x7f-\x9f"  # control characters, less tab and the newlines above
    "\u00ad\u034f\u061c\u115f\u180e\u200b\u200e\u200f\u2060-\u2064\ufeff"  # no width, or marks
    "\u202a-\u202e\u2066-\u206f"  # reversed writing, the trick of lookalike file names
    "\ufff9-\ufffb\U000e0000-\U000e0fff]"  # annotations and invisible tags
)
STRAY_JOINERS = re.compile("[\u200c\u200d]{2,}|(?<![^\\s])[\u200c\u200d]|[\u200c\u200d](?![^\\s])")
"""Joiners mean something between letters (Persian, emoji); elsewhere they are padding."""
SURROGATES = re.compile("[\ud800-\udfff]")
SPACES = re.compile("[\u00a0\u1680\u2000-\u200a\u202f\u205f\u3000]")
BLANK_LINES = re.compile("\n{3,}")

ANCHOR = re.compile(r"<a\s[^<>]{0,500}>|</a\s{0,9}>", re.IGNORECASE)
"""Link markup that some mailers write into plain text (AOL's readers showed it as links)."""
ENCODED_LINE = re.compile(r"[> ]*[A-Za-z0-9+/]{60,}={0,2}")
"""A full line of base64, perhaps quoted."""
ENCODED_TAIL = re.compile(r"[> ]*(?=\S*[0-9+/=])(?:[A-Za-z0-9+/]{4})*[A-Za-z0-9+/]{2,4}={0,2}")
"""Its last line; only if it looks like no word."""
MAYBE_ENCODED = re.compile(
    r"^[> ]*(?:-----BEGIN |begin [0-7]{3,4} |[A-Za-z0-9+/]{60})", re.MULTILINE
)
"""A quick look that most text does not pass."""
UU_BEGIN = re.compile(r"[> ]*begin [0-7]{3,4} (\S.{0,200})")
UU_LINE = re.compile(r"[> ]*[!-`][ -`]{0,64}")
ARMOR_BEGIN = re.compile(r"[> ]*-----BEGIN (PGP|CERTIFICATE|PKCS7)[A-Z0-9 ]*-----")
ARMOR_READABLE = re.compile(r"[> ]*-----BEGIN PGP SIGNED MESSAGE-----")
ARMOR_LINE = re.compile(r"[> ]*(?:[A-Za-z0-9+/]*={0,2}|=[A-Za-z0-9+/]{4}|[A-Z][A-Za-z]{2,20}: .*)")
ARMOR_END = re.compile(r"[> ]*-----END [A-Z0-9 ]+-----")


def clean(text: str) -> str:
    """`text` with newlines as `\\n`, nothing unseen, no trailing spaces and no long gaps."""
    text = BLANK_LINES.sub("\n\n", LINE_BREAK.sub("\n", text))
    text = SURROGATES.sub("\ufffd", text)
    text = STRAY_JOINERS.sub("", SPACES.sub(" ", UNSEEN.sub("", text)))
    text = "\n".join(line.rstrip() for line in text.split("\n"))
    return BLANK_LINES.sub("\n\n", text).strip("\n")


def one_line(text: str, max_chars: int = 1_000) -> str:
    """`text` on a single line, cut to `max_chars`: for headers and file names."""
    return " ".join(clean(text).split())[:max_chars].rstrip()


def without_markup(text: str) -> str:
    """`text` without link tags, and with base64, uuencoded and armoured blocks as short notes.

    They stand in the open where a bounce quotes a raw message, a broken boundary lets an
    attachment leak, or an old mailer pastes a file into the text.
    """
    text = ANCHOR.sub("", text)
    if not MAYBE_ENCODED.search(text):
        return text
    lines = text.split("\n")
    kept: list[str] = []
    at = 0
    while at < len(lines):
        end, note = _encoded_block(lines, at)
        if end > at:
            kept.append(note)
            at = end
        else:
            kept.append(lines[at])
            at += 1
    return "\n".join(kept)


def _encoded_block(lines: list[str], start: int) -> tuple[int, str]:
    """(index past the block that begins at `start`, note for it); (start, "") if none does."""
    line = lines[start]
    if line.lstrip("> ").startswith("-----BEGIN "):
        return _armoured_block(lines, start)
    if begin := UU_BEGIN.fullmatch(line):
        end = start + 1
        while (
            end < len(lines) and UU_LINE.fullmatch(lines[end]) and lines[end].strip("> ") != "end"
        ):
            end += 1
        if end > start + 1:
            is_closed = end < len(lines) and lines[end].strip("> ") == "end"
            return end + is_closed, f"[attachment: {begin.group(1)}]"
    if ENCODED_LINE.fullmatch(line):
        end = start + 1
        while end < len(lines) and ENCODED_LINE.fullmatch(lines[end]):
            end += 1
        if end - start >= 3:
            if end < len(lines) and ENCODED_TAIL.fullmatch(lines[end]):
                end += 1
            return end, "[encoded data]"
    return start, ""


def _armoured_block(lines: list[str], start: int) -> tuple[int, str]:
    """As `_encoded_block`, for PGP and its kin; a signed message's text stays, its frame goes."""
    if ARMOR_READABLE.fullmatch(lines[start]):
        end = start + 1
        while end < len(lines) and lines[end].strip("> ").startswith("Hash:"):
            end += 1
        return end, "[PGP signed]"
    begin = ARMOR_BEGIN.fullmatch(lines[start])
    if begin is None:
        return start, ""
    end = start + 1
    while end < len(lines) and ARMOR_LINE.fullmatch(lines[end]):
        end += 1
    if end < len(lines) and ARMOR_END.fullmatch(lines[end]):
        end += 1
    what = "signature" if "SIGNATURE" in lines[start] else "encoded data"
    return end, f"[{begin.group(1)} {what}]"
