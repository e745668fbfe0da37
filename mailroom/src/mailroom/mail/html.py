"""HTML to the text that its reader sees."""

from __future__ import annotations

import re

from selectolax.lexbor import LexborHTMLParser, LexborNode

from mailroom.mail.limits import Budget
from mailroom.mail.markup import bound_markup
from mailroom.mail.plain import clean

PARAGRAPHS = frozenset(
    {"p", "h1", "h2", "h3", "h4", "h5", "h6", "ul", "ol", "dl", "table", "pre"}
) | {"blockquote", "hr"}
"""A blank line stands before and behind them."""
LINES = (
    PARAGRAPHS
    | {"address", "article", "aside", "body", "caption", "center", "dd", "details", "dir", "div"}
    | {"dt", "fieldset", "figcaption", "figure", "footer", "form", "header", "legend", "li", "main"}
    | {"menu", "nav", "option", "section", "summary", "tr"}
)
"""They begin and end a line."""
CELLS = frozenset({"td", "th"})
UNREAD = frozenset({"head", "template", "select", "object", "svg", "math", "canvas"})
SPACES = re.compile(r"[ \t\n\r\f\xa0]+")
GAPS = re.compile(r" *\n *")
INVISIBLE = re.compile(r"(?:\u034f|\u00ad|\u200b|\u200c|\u200d|\ufeff)+")


def html_to_text(source: str, budget: Budget) -> str:
    """The text of an HTML document or fragment, a line for each block, without links' addresses.

    Cost is linear in the text and bounded by `budget` for the tree.
    """
    root = LexborHTMLParser(bound_markup(clean(source), budget)).root
    return "" if root is None else clean(GAPS.sub("\n", "".join(_pieces(root))))


def is_read(node: LexborNode) -> bool:
    """Whether a reader sees what is inside `node`."""
    return node.tag not in UNREAD


def _pieces(root: LexborNode) -> list[str]:
    """Text and breaks in document order; no recursion, as the depth is the sender's choice."""
    pieces: list[str] = []
    num_pre = 0
    node: LexborNode | None = root
    while node is not None:
        tag = node.tag or ""
        if tag == "-text":
            text = node.text_content or ""
            pieces.append(text if num_pre else _collapse(text, pieces))
        else:
            pieces += _opening(node, tag)
            num_pre += tag == "pre"
        child = node.child if is_read(node) else None
        if child is not None:
            node = child
            continue
        while node is not None:
            tag = node.tag or ""
            num_pre -= tag == "pre"
            pieces += _closing(tag)
            if node.mem_id == root.mem_id:  # `==` would compare the whole HTML of both
                return pieces
            if node.next is not None:
                node = node.next
                break
            node = node.parent
    return pieces


def _collapse(text: str, pieces: list[str]) -> str:
    """Runs of white space as one space, none at the start of a line."""
    text = SPACES.sub(" ", text)
    if not pieces or pieces[-1].endswith((" ", "\n")):
        text = text.removeprefix(" ")
    return text


def _opening(node: LexborNode, tag: str) -> list[str]:
    if tag == "br":
        return ["\n"]
    if tag == "img":
        alt = SPACES.sub(" ", node.attributes.get("alt") or "").strip()
        return [f"[{alt}] "] if alt else []
    if tag == "li":
        return ["\n- "]
    if tag in CELLS:
        return [" "]
    return ["\n\n"] if tag in PARAGRAPHS else ["\n"] if tag in LINES else []


def _closing(tag: str) -> list[str]:
    if tag in CELLS:
        return [" "]
    return ["\n\n"] if tag in PARAGRAPHS else ["\n"] if tag in LINES else []
