"""One labelled message: checked, cleaned, with its answer; and its line in a corpus file."""

from __future__ import annotations

import difflib
import json
import re
from dataclasses import dataclass
from typing import Any

from mailroom.corpus.masking import group_of
from mailroom.corpus.rows import BadRow, CorpusError, Row
from mailroom.mail.message import Message
from mailroom.mail.plain import clean, one_line
from mailroom.prompt.chat import prompt_text
from mailroom.prompt.form import render_answer
from mailroom.taxonomy import Taxonomy

_LONE_SURROGATE = re.compile("[\ud800-\udfff]")


@dataclass(frozen=True, slots=True)
class Example:
    message: Message
    category: str
    """The taxonomy's key."""
    completion: str
    """The four lines that a model is to answer."""
    group: str
    """Shared by all near-duplicates; no group stands on both sides of a split."""
    line: int
    """In its source."""
    apart: bool = False
    """A test row of which neither masked subject nor masked body occurs in training."""


def checked(row: Row, taxonomy: Taxonomy) -> Example | BadRow:
    """The row as an example, or what is wrong with it."""
    texts = {"subject": row.subject, "body": row.body, "category": row.category}
    for name, value in texts.items():
        value = "" if value is None else value
        if not isinstance(value, str):
            return BadRow(row.line, f"the {name} is not text but {type(value).__name__}")
        if _LONE_SURROGATE.search(value):
            return BadRow(row.line, f"broken encoding: the {name} is not UTF-8")
        if "\0" in value:
            return BadRow(row.line, f"the {name} holds a NUL byte")
        texts[name] = value
    message = Message(
        subject=one_line(texts["subject"]), body=clean(texts["body"]), sender=row.sender
    )
    if not message.subject.strip() and not message.body.strip():
        return BadRow(row.line, "empty: neither subject nor body")
    label = texts["category"].strip()
    if not label:
        return BadRow(row.line, "no category")
    category = taxonomy.find(label)
    if category is None:
        near = difflib.get_close_matches(label, taxonomy.keys, n=1)
        hint = f"; the nearest is {near[0]}" if near else ""
        return BadRow(
            row.line,
            f"unknown category {one_line(label, 60)!r}{hint} (taxonomy {taxonomy.name} has "
            f"{', '.join(taxonomy.keys)})",
        )
    return Example(
        message=message,
        category=category.key,
        completion=render_answer(taxonomy, taxonomy.answer(category.key, message)),
        group=group_of(message.subject, message.body),
        line=row.line,
    )


def to_json(example: Example, taxonomy: Taxonomy) -> dict[str, Any]:
    """The example as a line of train.jsonl or test.jsonl.

    `prompt` is for people and other programs: a model's own prompt depends on its chat template
    and is rendered from subject and body, by the same function everywhere.
    """
    return {
        "prompt": prompt_text(example.message, taxonomy),
        "completion": example.completion,
        "subject": example.message.subject,
        "body": example.message.body,
        "sender": example.message.sender,
        "category": example.category,
        "group": example.group,
        "apart": example.apart,
        "line": example.line,
    }


def from_json(line: str, place: str) -> Example:
    """The example in a line of a corpus file; `place` is what errors call it.

    Raises:
        CorpusError: the line is not one that `to_json` wrote.
    """
    try:
        record = json.loads(line)
        return Example(
            message=Message(record["subject"], record["body"], sender=record["sender"]),
            category=record["category"],
            completion=record["completion"],
            group=record["group"],
            line=record["line"],
            apart=record["apart"],
        )
    except (ValueError, KeyError, TypeError) as error:
        raise CorpusError(
            f"{place} is not an example: {error!r}. Build the corpus again."
        ) from error
