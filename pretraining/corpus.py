"""The pre-training text: an endless, seeded stream of documents, each a chat or plain text."""

import random
from collections.abc import Iterator
from dataclasses import dataclass

from pretraining.grammar import Grammar
from pretraining.messages import compose, lay_out
from pretraining.tasks import Chat, ask, copying

COPY_SHARE = 0.04
CHAT_SHARE = 0.85
"""Of what is not copying; the rest is plain text."""


@dataclass(frozen=True, slots=True)
class Span:
    """Text of a document; `is_answer` marks what the assistant says."""

    text: str
    is_answer: bool


@dataclass(frozen=True, slots=True)
class Document:
    spans: tuple[Span, ...]
    kind: int | None = None
    """Number of the kind of message that the document is about, if it is about one."""

    @property
    def text(self) -> str:
        return "".join(span.text for span in self.spans)


def rendered(chat: Chat, kind: int | None = None) -> Document:
    """The chat as the model's chat template renders it, but for the line end at its end."""
    spans: list[Span] = []
    before = f"<|im_start|>system\n{chat.system}<|im_end|>\n" if chat.system else ""
    for exchange in chat.exchanges:
        user = f"<|im_start|>user\n{exchange.user}<|im_end|>\n<|im_start|>assistant\n"
        spans.append(Span(before + user, False))
        spans.append(Span(f"{exchange.assistant}<|im_end|>", True))
        before = "\n"
    return Document(tuple(spans), kind)


def documents(grammar: Grammar, seed: int, *, max_sentences: int = 6) -> Iterator[Document]:
    """Documents without end; the same seed gives the same ones."""
    rng = random.Random(seed)
    numbers = {kind.name: number for number, kind in enumerate(grammar.kinds)}
    while True:
        if rng.random() < COPY_SHARE:
            yield rendered(copying(grammar, rng))
            continue
        message = compose(grammar, rng, max_sentences=max_sentences)
        number = numbers[message.kind.name]
        if rng.random() < CHAT_SHARE:
            yield rendered(ask(message, grammar, rng), number)
        else:
            text = lay_out(message, grammar, rng)
            yield Document((Span(f"{text}<|endoftext|>", False),), number)
