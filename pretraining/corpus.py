"""The pre-training text: an endless, seeded stream of documents, each a chat or plain text."""

import random
from collections.abc import Iterator
from dataclasses import dataclass

from pretraining.grammar import Grammar
from pretraining.messages import compose, lay_out
from pretraining.tasks import Turn, ask

CHAT_SHARE = 0.8
COPY_SHARE = 0.04


@dataclass(frozen=True, slots=True)
class Span:
    """Text of a document; `is_answer` marks what the assistant says."""

    text: str
    is_answer: bool


Document = tuple[Span, ...]


def chat_spans(turn: Turn) -> Document:
    """The turn as the model's chat template renders it."""
    head = f"<|im_start|>system\n{turn.system}<|im_end|>\n" if turn.system else ""
    head += f"<|im_start|>user\n{turn.user}<|im_end|>\n<|im_start|>assistant\n"
    return Span(head, False), Span(f"{turn.assistant}<|im_end|>", True)


def copy_spans(grammar: Grammar, rng: random.Random) -> Document:
    """Something without sense, and the same again: all that helps is to copy."""
    names = list(grammar.lexicon)
    words = [grammar.expand("{" + rng.choice(names) + "}", rng) for _ in range(rng.randint(3, 9))]
    text = " ".join(words)
    task = rng.choice(("Repeat: ", "Copy this: ", "Say again: ", "Echo "))
    return chat_spans(Turn("", task + text, text))


def documents(grammar: Grammar, seed: int, *, max_sentences: int = 6) -> Iterator[Document]:
    """Documents without end; the same seed gives the same ones."""
    rng = random.Random(seed)
    while True:
        roll = rng.random()
        if roll < CHAT_SHARE:
            yield chat_spans(ask(grammar, rng, max_sentences=max_sentences))
        elif roll < CHAT_SHARE + COPY_SHARE:
            yield copy_spans(grammar, rng)
        else:
            message = compose(grammar, rng, max_sentences=max_sentences)
            yield (Span(lay_out(message, grammar, rng) + "<|endoftext|>", False),)
