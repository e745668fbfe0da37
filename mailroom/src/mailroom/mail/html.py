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
BULLET = "- "
SPACES = re.compile(r"[ \t\n\r\f\xa0]+")


def html_to_text(source: str, budget: Budget) -> str:
    """The text of an HTML document or fragment, a line for each block, without links' addresses.

    Cost is linear in the text and bounded by `budget` for the tree.
    """
    root = LexborHTMLParser(bound_markup(clean(source), budget)).root
    if root is None:
        return ""
    layout = Layout()
    _lay_out(root, layout)
    return clean("".join(layout.pieces))


def is_read(node: LexborNode) -> bool:
    """Whether a reader sees what is inside `node`."""
    return node.tag not in UNREAD


class Layout:
    """Text put together: breaks that meet become the larger one, white space a single blank."""

    def __init__(self) -> None:
        self.pieces: list[str] = []
        self._num_breaks = 2  # newlines due before the next text; none above the first

    def break_lines(self, num_newlines: int) -> None:
        """See that at least so many newlines stand before what comes next."""
        self._num_breaks = max(self._num_breaks, num_newlines)

    def add_newline(self) -> None:
        self._num_breaks += 1

    def add(self, text: str, *, is_preformatted: bool = False) -> None:
        if not is_preformatted:
            text = SPACES.sub(" ", text)
            if self._num_breaks or self.pieces[-1].endswith(" "):
                text = text.removeprefix(" ")
        if not text:
            return
        if self.pieces and self.pieces[-1] != BULLET:  # the item begins beside its bullet
            self.pieces.append("\n" * self._num_breaks)
        self._num_breaks = 0
        self.pieces.append(text)

    def add_bullet(self) -> None:
        if not self.pieces or self.pieces[-1] != BULLET:
            self.add(BULLET)

    def separate(self) -> None:
        """Two blanks, unless a line begins here."""
        while not self._num_breaks and not self.pieces[-1].endswith("  "):
            self.pieces[-1] += " "


def _lay_out(root: LexborNode, layout: Layout) -> None:
    """Add what stands below `root`, in order; no recursion, as the depth is the sender's choice."""
    num_pre = 0
    node: LexborNode | None = root
    while node is not None:
        tag = node.tag or ""
        if tag == "-text":
            layout.add(node.text_content or "", is_preformatted=num_pre > 0)
        else:
            _open(node, tag, layout)
            num_pre += tag == "pre"
        child = node.child if is_read(node) else None
        if child is not None:
            node = child
            continue
        while node is not None:
            tag = node.tag or ""
            layout.break_lines(_num_newlines(tag))
            num_pre -= tag == "pre"
            if node.mem_id == root.mem_id:  # `==` would compare the whole HTML of both
                return
            if node.next is not None:
                node = node.next
                break
            node = node.parent


def _open(node: LexborNode, tag: str, layout: Layout) -> None:
    layout.break_lines(_num_newlines(tag))
    if tag == "br":
        layout.add_newline()
    elif tag == "li":
        layout.add_bullet()
    elif tag in CELLS:
        layout.separate()
    elif tag == "img" and (alt := (node.attributes.get("alt") or "").strip()):
        layout.add(f"[{alt}] ")


def _num_newlines(tag: str) -> int:
    return 2 if tag in PARAGRAPHS else 1 if tag in LINES else 0
