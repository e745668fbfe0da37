"""Text <-> tokens of a served model, from the files of its tokenizer alone."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path

from tokenizers import Tokenizer

from tinsmith.api.openai.chat_template import ChatTemplate, read_json
from tinsmith.api.wire.fields import is_storable
from tinsmith.domain.errors import InvalidInputError

_BYTE_TOKEN = re.compile(r"<0x([0-9A-F]{2})>")


class ModelText:
    def __init__(
        self, tokenizer: Tokenizer, eos_ids: frozenset[int], template: ChatTemplate | None
    ) -> None:
        self._tokenizer = tokenizer
        self.eos_ids = eos_ids
        """The tokens that end an answer unless the request says otherwise."""
        self.template = template
        self._added = tokenizer.get_added_tokens_decoder()
        steps = json.dumps(json.loads(tokenizer.to_str())["decoder"])
        self._is_byte_level = '"ByteLevel"' in steps
        self._has_byte_tokens = '"ByteFallback"' in steps

    def encode(self, text: str, *, add_special_tokens: bool) -> list[int]:
        """Raises InvalidInputError for half surrogates, which JSON can spell."""
        if not is_storable(text):
            raise InvalidInputError("the prompt holds half of a surrogate pair, which is no text")
        return self._tokenizer.encode(text, add_special_tokens=add_special_tokens).ids

    def decode(self, tokens: Sequence[int]) -> str:
        """Text for people: special tokens are left out."""
        return self._tokenizer.decode(tokens, skip_special_tokens=True)

    def bytes_of(self, token: int) -> bytes:
        """What this one token stands for, which need not be whole characters."""
        added = self._added.get(token)
        if added is not None:
            return added.content.encode()
        name = self._tokenizer.id_to_token(token)
        if name is None:  # vocabularies are padded to round sizes
            return b""
        if self._is_byte_level and all(char in _BYTE_OF_CHAR for char in name):
            return bytes(_BYTE_OF_CHAR[char] for char in name)
        if self._has_byte_tokens and (match := _BYTE_TOKEN.fullmatch(name)):
            return bytes([int(match[1], 16)])
        return name.replace("\u2581", " ").encode()


@lru_cache(maxsize=16)
def model_text_in(directory: str) -> ModelText:
    """Read once per folder: served models do not change.

    Raises:
        InvalidInputError: the folder holds no tokenizer that can be read here.
    """
    folder = Path(directory)
    file = folder / "tokenizer.json"
    if not file.is_file():
        raise InvalidInputError(
            "this model is served without a tokenizer.json, so it can be asked with tokens only, "
            "through the Tinker API"
        )
    try:
        tokenizer = Tokenizer.from_file(str(file))
    except Exception as error:  # tokenizers raises nothing narrower
        raise InvalidInputError(f"this model's tokenizer.json cannot be read: {error}") from error
    tokenizer.no_truncation()
    tokenizer.no_padding()
    return ModelText(tokenizer, _eos_ids(folder), ChatTemplate.load(folder))


def _eos_ids(folder: Path) -> frozenset[int]:
    """As the engine has them."""
    config = read_json(folder / "config.json")
    ids: set[int] = set()
    places = (read_json(folder / "generation_config.json"), config, config.get("text_config") or {})
    for place in places:
        eos = place.get("eos_token_id")
        if eos is not None:
            ids.update([eos] if isinstance(eos, int) else eos)
    return frozenset(ids)


def _byte_alphabet() -> dict[str, int]:
    """Byte-level BPE writes each byte as a visible character: itself where it is printable Latin-1,
    and the characters from 256 on, in order, for the rest (Radford et al., 2019, GPT-2's code)."""
    visible = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    rest = [byte for byte in range(256) if byte not in visible]
    return {chr(byte): byte for byte in visible} | {
        chr(256 + number): byte for number, byte in enumerate(rest)
    }


_BYTE_OF_CHAR = _byte_alphabet()
