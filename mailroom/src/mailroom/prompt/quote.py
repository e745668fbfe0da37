"""A message as quoted lines, and how it gets shorter: the subject and the newest text stay."""

from __future__ import annotations

import re
from collections.abc import Iterator

from mailroom.mail.plain import LINE_BREAK

MARK = "> "
"""Starts each line of a quoted message, and no other line of a prompt."""
CUT = "[...]"

_CONTROL = re.compile("[\x00-\x08\x0e-\x1b\x1f\x7f]")
_ATTRIBUTION = re.compile(
    r"^(on|am|le|el|il|op)\b.{0,200}\b"
    r"(wrote|schrieb|a écrit|escribió|ha scritto|schreef)\b.{0,80}:$",
    re.IGNORECASE,
)
_OLD_MESSAGE = re.compile(
    r"^(-{2,} ?(original message|forwarded message|ursprüngliche nachricht|message d'origine)"
    r"|_{20,}$)",
    re.IGNORECASE,
)
_SIGNATURE = re.compile(
    r"^(--|sent from my \S.{0,40}|von meinem \S.{0,40} gesendet)$", re.IGNORECASE
)


def quoted(subject: str, body: str) -> str:
    """The message as data: the subject's line, then the body's, each behind MARK.

    Blank lines, runs of spaces and control characters go; they cost tokens and say nothing.
    """
    lines = [f"Subject: {_one_line(subject)}".rstrip(), *_lines(body)]
    return "\n".join(MARK + line for line in lines)


def without_old_text(body: str) -> Iterator[str]:
    """The body with less and less of what its sender did not write now.

    First without the replies it quotes, then without the signature too. Text that would leave
    nothing is kept: a forwarded message is all there is to judge.
    """
    lines = _lines(body)
    newest = _without_quotes(lines) or lines
    yield "\n".join(newest)
    end = next((n for n, line in enumerate(newest) if n and _SIGNATURE.match(line)), len(newest))
    yield "\n".join(newest[:end])


def cut(text: str, num_chars: int) -> str:
    """The first `num_chars` characters or a little less, so as to end between two words."""
    if num_chars >= len(text):
        return text
    kept = text[:num_chars]
    if not text[num_chars].isspace():
        whole_words = re.sub(r"\S+\Z", "", kept)
        kept = whole_words if len(whole_words) > num_chars // 2 else kept
    return f"{kept.rstrip()} {CUT}".lstrip()


def _lines(text: str) -> list[str]:
    lines = (_one_line(line) for line in LINE_BREAK.split(text))
    return [line for line in lines if line]


def _one_line(text: str) -> str:
    return " ".join(_CONTROL.sub(" ", text).split())


def _without_quotes(lines: list[str]) -> list[str]:
    newest: list[str] = []
    for line in lines:
        if _OLD_MESSAGE.match(line):
            break
        if line.startswith(">"):
            # The attribution may be wrapped: "On Monday, Ann" / "<ann@example.org> wrote:".
            for length in (1, 2):
                if newest and _ATTRIBUTION.match(" ".join(newest[-length:])):
                    del newest[-length:]
                    break
            continue
        newest.append(line)
    if newest and _ATTRIBUTION.match(newest[-1]):
        newest.pop()
    return newest
