"""Messages composed from the grammar: which sentences, in what layout, with what noise."""

import random
import re
from collections.abc import Mapping
from dataclasses import dataclass

from pretraining.grammar import Grammar, Kind

PLACEHOLDER_RATE = 0.02
"""Share of messages in which one slot stays unfilled, as template mail sometimes goes out."""


@dataclass(frozen=True, slots=True)
class Composed:
    """A message and what its generator knows about it."""

    kind: Kind
    subject: str
    sentences: tuple[str, ...]
    sender: str
    found: Mapping[str, str]
    """First value of each lexicon slot, for questions like "which amount is named?"."""

    @property
    def body(self) -> str:
        return " ".join(self.sentences)


def tidy(text: str) -> str:
    """Single spaces, none before a mark, first letter in upper case now and then left alone."""
    text = re.sub(r" {2,}", " ", text).strip()
    return re.sub(r" ([.,!?;:])(?= |$)", r"\1", text)


def compose(grammar: Grammar, rng: random.Random, *, max_sentences: int = 6) -> Composed:
    """A message of a random kind: mostly short, sometimes with a stray sentence of another."""
    kind = rng.choice(grammar.kinds)
    found: dict[str, str] = {}
    subject = tidy(grammar.expand(rng.choice(kind.subjects), rng, found))
    if rng.random() < 0.06:
        subject = f"[{grammar.expand('{brand}', rng)}] {subject}"
    elif rng.random() < 0.06:
        subject = rng.choice(("Re: ", "Fwd: ", "RE: ", "FW: ", "Fw: ", "AW: ")) + subject
    count = min(len(kind.lines), 1 + int(rng.expovariate(1 / (max_sentences / 3))))
    sentences = [tidy(grammar.expand(line, rng, found)) for line in rng.sample(kind.lines, k=count)]
    if count > 1 and rng.random() < 0.12:
        stray = rng.choice(rng.choice(grammar.kinds).lines)
        sentences.insert(rng.randint(0, count), tidy(grammar.expand(stray, rng)))
    if rng.random() < 0.2:
        sentences.insert(0, tidy(grammar.expand("{greeting}[,|,|!|]", rng)))
    if rng.random() < 0.15:
        sentences.append(tidy(grammar.expand("{closing}[,|] [{first}|{person}|]", rng)))
    if rng.random() < PLACEHOLDER_RATE * 4:
        sentences[-1] = blank_slot(sentences[-1], found, rng)
    sender = grammar.expand("[{person} <{email}>|{email}|{brand} <{email}>]", rng)
    return Composed(kind, subject, tuple(sentences), sender, found)


def blank_slot(sentence: str, found: Mapping[str, str], rng: random.Random) -> str:
    """The sentence with one known slot value put back to its `{name}`."""
    names = [name for name, value in found.items() if value in sentence]
    if not names:
        return sentence
    name = rng.choice(names)
    return sentence.replace(found[name], "{" + name + "}", 1)


def spoil(text: str, rng: random.Random) -> str:
    """Everyday noise: another case, a typo, dropped or doubled words, other marks."""
    roll = rng.random()
    if roll < 0.06:
        return text.lower()
    if roll < 0.08:
        return text.upper()
    if roll < 0.10:
        return text.title()
    if roll < 0.16:
        words = text.split(" ")
        return " ".join(word for word in words if rng.random() > 0.15) or text
    if roll < 0.22 and len(text) > 8:
        for _ in range(1 + len(text) // 80):
            at = rng.randrange(1, len(text) - 2)
            text = rng.choice(
                (
                    text[:at] + text[at + 1 :],
                    text[:at] + text[at + 1] + text[at] + text[at + 2 :],
                    text[:at] + text[at] + text[at:],
                )
            )
        return text
    if roll < 0.25:
        return text.replace(".", "!")
    return text


def word_salad(message: Composed, rng: random.Random) -> str:
    """Some of the message's words in no order: what is left when grammar is taken away."""
    words = f"{message.subject} {message.body}".split()
    rng.shuffle(words)
    return " ".join(words[: rng.randint(4, 16)])


LAYOUTS = (
    "{subject}\n\n{body}",
    "{subject}\n{body}",
    "{subject} {body}",
    "{subject}. {body}",
    "{body}",
    "{subject}",
    "Subject: {subject}\n\n{body}",
    "Subject: {subject}\nBody: {body}",
    "Subject: {subject}\n{body}",
    "Subject: {subject}\nMessage: {body}",
    "SUBJECT: {subject}\nTEXT: {body}",
    "From: {sender}\nSubject: {subject}\n\n{body}",
    "From: {sender}\nTo: {to}\nSubject: {subject}\nDate: {date}\n\n{body}",
    "Subject: {subject}\nFrom: {sender}\n\n{body}",
    "Title: {subject}\nText: {body}",
    "> Subject: {subject}\n> {body}",
    "> {subject}\n>\n> {body}",
)


def lay_out(message: Composed, grammar: Grammar, rng: random.Random) -> str:
    """The message as one text, in one of many layouts, noise included."""
    if rng.random() < 0.1:
        return word_salad(message, rng)
    joint = "\n" if rng.random() < 0.15 else " "
    return rng.choice(LAYOUTS).format(
        subject=spoil(message.subject, rng),
        body=spoil(joint.join(message.sentences), rng),
        sender=message.sender,
        to=grammar.expand("{email}", rng),
        date=grammar.expand("{date}", rng),
    )
