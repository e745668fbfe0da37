"""Rows of labelled mail as a source gives them, before anything was checked."""

from __future__ import annotations

import difflib
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from typing import Any

from mailroom.errors import MailroomError


class CorpusError(MailroomError):
    """A source cannot be read, or a corpus cannot be built or loaded; says what to do."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Columns:
    """Which columns are read. No other column of a source is ever looked at.

    So one that gives the answer away, such as an id that begins with the category, cannot come
    near a prompt.
    """

    subject: str = "subject"
    body: str = "body"
    category: str = "category"

    def check(self, present: Collection[str], source: str) -> None:
        """Raises CorpusError when a column is missing, naming those that are there."""
        for role in ("subject", "body", "category"):
            name = getattr(self, role)
            if name not in present:
                near = difflib.get_close_matches(name, present, n=1)
                raise CorpusError(
                    f"{source} has no column {name!r} for the {role}; it has "
                    f"{', '.join(map(repr, present)) or 'none'}. Name the right one with "
                    f"--{role}-column{f' {near[0]}' if near else ''}."
                )


@dataclass(frozen=True, slots=True)
class Row:
    line: int
    """Where it starts in its source: a file's line, or the row's number, from 1."""
    subject: Any
    body: Any
    category: Any
    sender: str = ""
    """Kept with the message; no prompt shows it."""


@dataclass(frozen=True, slots=True)
class BadRow:
    line: int
    reason: str


Rows = Iterator[Row | BadRow]
