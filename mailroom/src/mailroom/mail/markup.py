"""HTML written out anew so that parsing it costs what we allow, whatever was sent.

HTML's own rules let a small text grow into a huge tree (formatting elements are opened again in
every block) and let one tag carry so many attributes that comparing them takes minutes. So the
text is cut into tags here, once and in a straight line, and written again with: no comments, no
scripts or styles, only the attributes that decide what a reader sees, formatting elements under
names that open nothing twice, and a bounded number of tags. What we write has no loose `<` or
quote in it, so the parser behind us cannot see more tags in it than we counted.
"""

from __future__ import annotations

import html
import re
from collections.abc import Iterator

from mailroom.mail.limits import Budget

TAG = re.compile(
    r"<(?:(?P<comment>!--)|(?P<other>[!?])|(?P<close>/?)(?P<name>[a-zA-Z][\w:-]{0,30}))"
)
ATTRIBUTES = re.compile(r"""(?:[^>"']|"[^"]*"|'[^']*')*+""")
ATTRIBUTE = re.compile(r"""([a-zA-Z-]{1,20})\s*=\s*(?:"([^"]*)"|'([^']*)'|([^\s"'>]+))""")
MAX_ATTRIBUTES_CHARS = 4_000

KEPT_ATTRIBUTES = frozenset({"style", "color", "bgcolor", "size", "width", "height", "alt"})
"""What a page can hide text with, and the text that stands for a picture."""
DROPPED = frozenset(
    {"script", "style", "title", "textarea", "xmp", "iframe", "noembed", "noframes"}
)
"""Elements whose content is not markup; a mail's reader shows none of it. Dropped to their end."""
DROPPED_END = {name: re.compile(rf"</{name}[\s/>]", re.IGNORECASE) for name in DROPPED}
FORMATTING = frozenset(
    {"a", "b", "big", "code", "em", "font", "i", "nobr", "s", "small", "strike"}
) | {"strong", "tt", "u"}
"""Those that HTML opens again in the next block ("active formatting elements")."""


def bound_markup(text: str, budget: Budget) -> str:
    """`text` as HTML that a tree can be built from cheaply; it takes from `budget`."""
    text = text[: max(0, budget.html_chars)]
    budget.html_chars -= len(text)
    return "".join(_pieces(text, budget))


def _pieces(text: str, budget: Budget) -> Iterator[str]:
    at = 0
    while found := TAG.search(text, at):
        yield text[at : found.start()].replace("<", "&lt;")
        if found["comment"]:
            at = _behind(text, "-->", found.end())
        elif found["other"]:
            at = _behind(text, ">", found.end())
        else:
            if budget.html_tags <= 0:
                return
            budget.html_tags -= 1
            name = found["name"].lower()
            attributes = ATTRIBUTES.match(text, found.end())
            end = attributes.end() if attributes else found.end()
            if not text.startswith(">", end):  # an unclosed quote: the tag ends where it can
                end = _behind(text, ">", found.end()) - 1
            if name in DROPPED and not found["close"]:
                closing = DROPPED_END[name].search(text, end)
                at = closing.start() if closing else len(text)
                continue
            at = end + 1
            if name not in DROPPED:
                kept = "" if found["close"] else _kept_attributes(text[found.end() : end])
                prefix = "x-" if name in FORMATTING else ""
                yield f"<{found['close']}{prefix}{name}{kept}>"
    yield text[at:].replace("<", "&lt;")


def _behind(text: str, mark: str, start: int) -> int:
    """Index just past the next `mark`; past the whole text if there is none."""
    found = text.find(mark, start)
    return len(text) + 1 if found < 0 else found + len(mark)


def _kept_attributes(text: str) -> str:
    kept: dict[str, str] = {}
    for found in ATTRIBUTE.finditer(text[:MAX_ATTRIBUTES_CHARS]):
        name = found[1].lower()
        if name in KEPT_ATTRIBUTES:
            kept.setdefault(name, html.unescape(found[2] or found[3] or found[4] or ""))
    if re.search(r"\shidden(?=[\s/]|$)", text[:MAX_ATTRIBUTES_CHARS], re.IGNORECASE):
        kept["hidden"] = ""
    return "".join(f' {name}="{html.escape(value)}"' for name, value in kept.items())
