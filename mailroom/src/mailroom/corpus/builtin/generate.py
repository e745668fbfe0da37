"""The `builtin` data set: labelled mail put together from this folder's templates, by a seed.

Training, validation and test use templates of their own, for subjects and for each part of a body;
they share only the words that fill the places (names, shops, topics). All of it is made up.
"""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cache
from importlib import resources
from itertools import cycle

from mailroom.corpus.masking import group_of
from mailroom.corpus.rows import CorpusError, Row
from mailroom.taxonomy import Taxonomy

BUILTIN = "builtin"
"""The name of the data set as a source."""
CATEGORIES = (
    "forum",
    "personal",
    "promotions",
    "social_media",
    "spam",
    "updates",
    "verify_code",
)
SIZES = {"train": 60, "test": 30, "validation": 15}
"""Messages of each category."""
SHAPES = ("short", "medium", "short", "long", "short", "medium", "short", "medium", "short", "long")
"""Taken in turn: short is a body alone, long has several paragraphs."""

Templates = Mapping[str, tuple[str, ...]]

_SLOT = re.compile(r"\{(\w+)\}")
_CHOICE = re.compile(r"\(([^()]*\|[^()]*)\)")
_NUMBERS: Mapping[str, Callable[[random.Random], str]] = {
    "n": lambda draw: str(draw.randint(3, 60)),
    "day": lambda draw: str(draw.randint(1, 28)),
    "time": lambda draw: f"{draw.randint(7, 21)}:{draw.choice(('00', '15', '30', '45'))}",
    "code": lambda draw: f"{draw.randrange(1_000_000):06}",
    "order": lambda draw: f"{draw.randint(10, 99)}-{draw.randint(10_000, 99_999)}",
    "amount": lambda draw: f"${draw.randint(5, 400)}.{draw.choice(('00', '50', '90', '99'))}",
    "big": lambda draw: f"${draw.randint(1, 48)},{draw.randint(100, 999)},000",
    "percent": lambda draw: f"{draw.randrange(10, 80, 5)}%",
}
_NOT_THE_SAME_AS = {"other": "first", "nick2": "nick"}
"""Places filled from another's words, but with a different one."""


def builtin_rows(seed: int, taxonomy: Taxonomy) -> tuple[list[Row], list[Row]]:
    """The training and the test rows, of those categories that the taxonomy has.

    Rows are numbered as if they stood in a file, and categories mixed, so that the first N rows
    hold some of each.

    Raises:
        CorpusError: the taxonomy has none of the categories.
    """
    wanted = _wanted(taxonomy)
    return _part("train", wanted, seed), _part("test", wanted, seed)


def builtin_validation_rows(seed: int, taxonomy: Taxonomy) -> list[Row]:
    """Rows to tell how sure a trained model may be: as far from training as the test's are."""
    return _part("validation", _wanted(taxonomy), seed)


def _wanted(taxonomy: Taxonomy) -> list[str]:
    wanted = [key for key in CATEGORIES if taxonomy.find(key)]
    if not wanted:
        raise CorpusError(
            f"Taxonomy {taxonomy.name} has none of the built-in data's categories "
            f"({', '.join(CATEGORIES)}); give labelled mail of your own by --data."
        )
    return wanted


def _part(part: str, categories: Sequence[str], seed: int) -> list[Row]:
    rows: list[tuple[str, str, str, str]] = []
    for category in categories:
        draw = random.Random(f"{seed}:{part}:{category}")
        messages = _messages(category, part, draw)
        seen: set[str] = set()
        while len(seen) < SIZES[part]:
            sender, subject, body = next(messages)
            if (group := group_of(subject, body)) not in seen:  # no near-duplicate in a part
                seen.add(group)
                rows.append((sender, subject, body, category))
    random.Random(f"{seed}:{part}").shuffle(rows)
    return [
        Row(line, subject, body, category, sender)
        for line, (sender, subject, body, category) in enumerate(rows, start=1)
    ]


def _messages(category: str, part: str, draw: random.Random) -> Iterator[tuple[str, str, str]]:
    """Sender, subject and body, without end. Subjects and bodies take their turns evenly."""
    templates = read_templates(category)

    def in_turn(name: str) -> Iterator[str]:
        ones = list(templates[f"{part} {name}"])
        while True:
            draw.shuffle(ones)
            yield from ones

    subjects, bodies, senders = in_turn("subject"), in_turn("body"), cycle(templates["sender"])
    for shape in cycle(SHAPES):
        subject, paragraphs = next(subjects), [next(bodies)]
        if shape != "short" and part == "validation":  # has bodies alone
            paragraphs.append(next(bodies))
        elif shape != "short":
            paragraphs.insert(0, draw.choice(templates[f"{part} opening"]))
            if shape == "long":
                details = templates[f"{part} detail"]
                paragraphs += draw.sample(details, draw.randint(2, min(6, len(details))))
            paragraphs.append(draw.choice(templates[f"{part} closing"]))
        filled = _filled([next(senders), subject, *paragraphs], draw)
        name, _, address = filled[0].partition(" <")
        sender = f"{name} <{re.sub(r'[^a-z0-9@.-]', '', address.lower())}>"
        yield sender, filled[1], "\n\n".join(filled[2:])


def _filled(texts: Sequence[str], draw: random.Random) -> list[str]:
    """The texts with their places filled; within one message a place means the same throughout."""
    words = read_templates("words")
    chosen: dict[str, str] = {}

    def fill(match: re.Match[str]) -> str:
        place = match[1]
        if place == "n":  # counts of different things
            return _NUMBERS[place](draw)
        if place not in chosen:
            if place in _NUMBERS:
                chosen[place] = _NUMBERS[place](draw)
            else:
                twin = _NOT_THE_SAME_AS.get(place)
                options = [word for word in words[twin or place] if word not in chosen.values()]
                chosen[place] = _SLOT.sub(fill, draw.choice(options))
        return chosen[place]

    def choose(match: re.Match[str]) -> str:
        return draw.choice(match[1].split("|"))

    return [_SLOT.sub(fill, _CHOICE.sub(choose, text)) for text in texts]


@cache
def read_templates(name: str) -> Templates:
    """A template file's sections: `[heading]` lines, and one template a line below each.

    In a template `{place}` is filled from words.txt or by a number, and of `(this|that)` one is
    taken.
    """
    text = resources.files("mailroom.corpus.builtin").joinpath(f"templates/{name}.txt")
    sections: dict[str, list[str]] = {}
    lines: list[str] = []
    for line in text.read_text("utf-8").splitlines():
        if match := re.fullmatch(r"\[([\w ]+)\]", line):
            lines = sections.setdefault(match[1], [])
        elif line:
            lines.append(line)
    return {heading: tuple(found) for heading, found in sections.items()}
