"""The prompts that mailroom's triage sends: its own rendering of the built-in corpus's mails.

138 tokens on average, 75 to 433, the first 48 of them the instruction that all have in common. Ids
are those of the built-in model's tokenizer; a model with random weights takes any.
"""

from __future__ import annotations

from itertools import islice


def triage_prompts(count: int) -> list[list[int]]:
    """The prompts of so many mails, categories mixed; always the same ones."""
    from mailroom.corpus.builtin.generate import builtin_rows
    from mailroom.mail.message import Message
    from mailroom.prompt.chat import render_prompt
    from mailroom.taxonomy import Taxonomy
    from tinsmith.base_models import BUILTIN_DIRECTORY
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(BUILTIN_DIRECTORY)
    taxonomy = Taxonomy.load("default")
    rows = [row for part in builtin_rows(0, taxonomy) for row in part]
    if count > len(rows):
        raise SystemExit(f"the built-in corpus has {len(rows)} mails; {count} were asked for")
    return [
        render_prompt(Message(row.subject, row.body), tokenizer, taxonomy)
        for row in islice(rows, count)
    ]
