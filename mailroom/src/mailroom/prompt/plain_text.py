"""Text to token ids such that text stays text: no part of it becomes a control token."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_MARKUP = re.compile(r"[<>\[\]|]")


def control_tokens(tokenizer: PreTrainedTokenizerBase) -> dict[str, int]:
    """The tokens with a meaning of their own to the model: written form -> id.

    Besides the special ones these are added tokens that look like markup (`<think>`,
    `<tool_call>`), which tokenizers do not count as special. The token for unknown characters is
    text, unless a tokenizer gives it a second meaning.
    """
    controls = {
        token.content: token_id
        for token_id, token in tokenizer.added_tokens_decoder.items()
        if token.special or (len(token.content) > 1 and _MARKUP.search(token.content))
    }
    controls |= dict(zip(tokenizer.all_special_tokens, tokenizer.all_special_ids, strict=True))
    meanings = [
        name
        for name, content in tokenizer.special_tokens_map.items()
        if content == tokenizer.unk_token
    ]
    if tokenizer.unk_token is not None and meanings == ["unk_token"]:
        controls.pop(str(tokenizer.unk_token), None)
    return controls


def control_pattern(controls: dict[str, int]) -> re.Pattern[str]:
    """Finds the written forms in a text, the longest first. Without any it finds nothing."""
    forms = sorted(controls, key=len, reverse=True)
    return re.compile("|".join(map(re.escape, forms)) or r"(?!)")


def token_ids(
    text: str, tokenizer: PreTrainedTokenizerBase, *, split_special_tokens: bool = False
) -> list[int]:
    """The ids of a text and nothing besides. Without the tokenizer's warning of long texts: what
    is too long for the model is cut before the model sees it."""
    return tokenizer.encode(
        text,
        add_special_tokens=False,
        split_special_tokens=split_special_tokens,
        verbose=False,
    )


def encode_plain(text: str, tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """The ids of a text in which no control token is recognised, and none is among them."""
    controls = control_tokens(tokenizer)
    forbidden = set(controls.values())

    def encode(part: str) -> list[int]:
        return token_ids(part, tokenizer, split_special_tokens=True)

    ids = encode(text)
    if forbidden.isdisjoint(ids):
        return ids
    # `split_special_tokens` knows only special tokens, and some vocabularies hold a control
    # token's written form as an ordinary piece. So take those forms apart ourselves.
    ids = []
    start = 0
    for match in control_pattern(controls).finditer(text):
        ids += encode(text[start : match.start() + 1])
        start = match.start() + 1
    ids += encode(text[start:])
    if forbidden.isdisjoint(ids):
        return ids
    # A normaliser can make a control token of other characters. One at a time they cannot join.
    return [i for char in text for i in encode(char) if i not in forbidden]
