"""A small phrase grammar: text with `[one|of|these]` and `{slot}`, expanded by a seeded generator.

`[a|b|]` picks one alternative (an empty one is allowed), brackets nest, `\\[` is a bracket as
text. `{name}` expands an entry of the lexicon, or a number, code or letter from `NUMBERS`.
"""

import random
import re
import string
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

FOLDER = Path(__file__).parent / "grammar"

ATTRIBUTES = ("tag", "gist", "says", "from", "field", "speed", "next", "reply", "by", "honest")


def _digits(count: int) -> Callable[[random.Random], str]:
    return lambda rng: str(rng.randint(10 ** (count - 1), 10**count - 1))


NUMBERS: Mapping[str, Callable[[random.Random], str]] = {
    "k": lambda rng: str(rng.randint(1, 9)),
    "n": lambda rng: str(rng.randint(2, 30)),
    "nn": _digits(2),
    "nnn": _digits(3),
    "nnnn": _digits(4),
    "nnnnn": _digits(5),
    "nnnnnn": _digits(6),
    "nnnnnnnn": _digits(8),
    "p": lambda rng: str(5 * rng.randint(1, 19)),
    "d": lambda rng: str(rng.randint(1, 28)),
    "m": lambda rng: str(rng.randint(1, 12)),
    "h": lambda rng: str(rng.randint(1, 12)),
    "dd": lambda rng: f"{rng.randint(1, 28):02}",
    "mm": lambda rng: f"{rng.randint(1, 12):02}",
    "hh": lambda rng: f"{rng.randint(0, 23):02}",
    "year": lambda rng: str(rng.randint(1998, 2031)),
    "upper": lambda rng: rng.choice(string.ascii_uppercase),
    "alnum": lambda rng: "".join(
        rng.choices(string.ascii_uppercase + string.digits, k=rng.randint(4, 8))
    ),
}


@dataclass(frozen=True, slots=True)
class Slot:
    name: str


@dataclass(frozen=True, slots=True)
class Choice:
    alternatives: "tuple[tuple[Part, ...], ...]"


Part = str | Slot | Choice
"""A piece of a phrase: text as it is, a slot, or a choice."""


@dataclass(frozen=True, slots=True)
class Kind:
    """A kind of message: how it is written, and what is true of it."""

    name: str
    attributes: Mapping[str, str]
    """A value for each of `ATTRIBUTES`."""
    subjects: tuple[str, ...]
    lines: tuple[str, ...]


_PIECE = re.compile(r"\\[\[\]]|\{\w+\}|[\[\]|]|[^\\\[\]{}|]+|.", re.DOTALL)


@cache
def parse(phrase: str) -> tuple[Part, ...]:
    """The phrase as a sequence of parts.

    Raises:
        ValueError: a bracket is left open or closed twice.
    """
    stack: list[list[list[Part]]] = [[[]]]
    for piece in _PIECE.findall(phrase):
        if piece == "[":
            stack.append([[]])
        elif piece == "]":
            if len(stack) == 1:
                raise ValueError(f"a bracket is closed twice in {phrase!r}")
            choice = Choice(tuple(tuple(parts) for parts in stack.pop()))
            stack[-1][-1].append(choice)
        elif piece == "|" and len(stack) > 1:
            stack[-1].append([])
        elif len(piece) > 2 and piece[0] == "{" and piece[-1] == "}":
            stack[-1][-1].append(Slot(piece[1:-1]))
        else:
            stack[-1][-1].append(piece.removeprefix("\\"))
    if len(stack) != 1:
        raise ValueError(f"a bracket is left open in {phrase!r}")
    return tuple(stack[0][0])


class Grammar:
    """The lexicon and the kinds of message of one folder of grammar files."""

    def __init__(self, lexicon: Mapping[str, Sequence[str]], kinds: Sequence[Kind]) -> None:
        self.lexicon = lexicon
        self.kinds = tuple(kinds)
        for kind in kinds:
            for phrase in kind.subjects + kind.lines:
                self._check(parse(phrase), f"kind {kind.name}: {phrase!r}")
        for name, entries in lexicon.items():
            for entry in entries:
                self._check(parse(entry), f"list {name}: {entry!r}")

    @classmethod
    def load(cls, folder: Path = FOLDER) -> "Grammar":
        """Read `lexicon.txt` and every other file of the folder."""
        kinds: list[Kind] = []
        for path in sorted(folder.glob("*.txt")):
            if path.name != "lexicon.txt":
                kinds += read_kinds(path.read_text(encoding="utf-8"))
        return cls(read_lexicon((folder / "lexicon.txt").read_text(encoding="utf-8")), kinds)

    def expand(self, phrase: str, rng: random.Random, found: dict[str, str] | None = None) -> str:
        """The phrase with every choice made; `found` collects slot values of the outer level."""
        return "".join(self._expand(parse(phrase), rng, found))

    def _expand(
        self, parts: tuple[Part, ...], rng: random.Random, found: dict[str, str] | None
    ) -> list[str]:
        out: list[str] = []
        for part in parts:
            if isinstance(part, str):
                out.append(part)
            elif isinstance(part, Choice):
                out += self._expand(rng.choice(part.alternatives), rng, found)
            else:
                number = NUMBERS.get(part.name)
                if number is not None:
                    out.append(number(rng))
                    continue
                value = self.expand(rng.choice(self.lexicon[part.name]), rng)
                if found is not None:
                    found.setdefault(part.name, value)
                out.append(value)
        return out

    def _check(self, parts: tuple[Part, ...], where: str) -> None:
        for part in parts:
            if isinstance(part, Choice):
                for alternative in part.alternatives:
                    self._check(alternative, where)
            elif isinstance(part, Slot) and part.name not in {*NUMBERS, *self.lexicon}:
                raise ValueError(f"no list is called {part.name!r} ({where})")


def _content_lines(text: str) -> list[str]:
    return [line for line in text.splitlines() if line.strip() and not line.startswith("# ")]


def read_lexicon(text: str) -> dict[str, tuple[str, ...]]:
    """`name: a | b | c` lines to lists; the bars of the list stand between spaces."""
    lexicon: dict[str, tuple[str, ...]] = {}
    for line in _content_lines(text):
        name, _, entries = line.partition(": ")
        if name in lexicon:
            raise ValueError(f"the list {name!r} stands twice in the lexicon")
        lexicon[name] = tuple(entries.split(" | "))
    return lexicon


def read_kinds(text: str) -> list[Kind]:
    """The kinds of a grammar file: attributes, then subjects, then lines of the body."""
    kinds: list[Kind] = []
    for block in re.split(r"^kind ", text, flags=re.MULTILINE)[1:]:
        head, _, rest = block.partition("subject:\n")
        subjects, _, lines = rest.partition("\nline:\n")
        name, *pairs = _content_lines(head)
        attributes = dict(pair.split(": ", 1) for pair in pairs)
        if tuple(attributes) != ATTRIBUTES:
            raise ValueError(f"kind {name!r} has attributes {tuple(attributes)}, not {ATTRIBUTES}")
        kinds.append(
            Kind(name, attributes, tuple(_content_lines(subjects)), tuple(_content_lines(lines)))
        )
    return kinds
