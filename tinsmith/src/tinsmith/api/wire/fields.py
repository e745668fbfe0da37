"""JSON bodies, read key by key: every refusal names the key, the value and what is allowed.

Null counts as absent, as the SDK leaves out what has no value. Keys that nobody asks for are
ignored, so that a newer SDK's extras do no harm.
"""

from __future__ import annotations

import json
from typing import Any, TypeVar

from tinsmith.domain.errors import InvalidInputError

INT64_MAX = 2**63 - 1
MAX_SHOWN = 80

_D = TypeVar("_D")


class Fields:
    """A JSON object."""

    def __init__(self, values: dict[str, Any], where: str = "") -> None:
        self._values = values
        self._where = where

    @classmethod
    def parse(cls, body: bytes) -> Fields:
        """Raises InvalidInputError unless the body is one JSON object."""
        try:
            values = json.loads(body)
        except (ValueError, RecursionError) as error:  # ValueError: syntax, UTF-8, huge numbers
            why = "it is nested too deeply" if isinstance(error, RecursionError) else error
            raise InvalidInputError(f"the body is not readable JSON: {why}") from error
        if not isinstance(values, dict):
            raise InvalidInputError(f"the body must be a JSON object, got {_shown(values)}")
        return cls(values)

    def names(self) -> list[str]:
        return list(self._values)

    def has(self, key: str) -> bool:
        return self._values.get(key) is not None

    def raw(self, key: str) -> Any:
        return self._values.get(key)

    def refuse(self, key: str, wanted: str) -> InvalidInputError:
        """The error to raise when a value is not what was wanted."""
        if not self.has(key):
            return InvalidInputError(f"{self._where}{key} is missing; it must be {wanted}")
        return InvalidInputError(
            f"{self._where}{key} must be {wanted}, got {_shown(self._values[key])}"
        )

    def text(self, key: str) -> str:
        value = self.raw(key)
        if not isinstance(value, str) or not value or not is_storable(value):
            raise self.refuse(key, "a non-empty string")
        return value

    def text_or(self, key: str, default: _D) -> str | _D:
        return self.text(key) if self.has(key) else default

    def integer(self, key: str, *, low: int = 0, high: int = INT64_MAX) -> int:
        value = self.raw(key)
        if type(value) is not int or not low <= value <= high:
            raise self.refuse(key, f"an integer from {low} to {high}")
        return value

    def integer_or(self, key: str, default: _D, *, low: int = 0, high: int = INT64_MAX) -> int | _D:
        return self.integer(key, low=low, high=high) if self.has(key) else default

    def number_or(self, key: str, default: float) -> float:
        """A number; NaN and infinities pass, for whoever knows the allowed range to refuse."""
        if not self.has(key):
            return default
        value = self.raw(key)
        try:
            if type(value) in (int, float):
                return float(value)
        except OverflowError:
            pass
        raise self.refuse(key, "a number")

    def flag_or(self, key: str, default: bool) -> bool:
        if not self.has(key):
            return default
        value = self.raw(key)
        if not isinstance(value, bool):
            raise self.refuse(key, "true or false")
        return value

    def items_or(self, key: str, default: list[Any]) -> list[Any]:
        if not self.has(key):
            return default
        value = self.raw(key)
        if not isinstance(value, list):
            raise self.refuse(key, "a list")
        return value

    def object_or(self, key: str, default: _D) -> Fields | _D:
        if not self.has(key):
            return default
        value = self.raw(key)
        if not isinstance(value, dict):
            raise self.refuse(key, "an object")
        return Fields(value, f"{self._where}{key}.")

    def metadata(self, key: str) -> dict[str, str]:
        """A map from strings to strings; empty when absent."""
        value = self.raw(key)
        if value is None:
            return {}
        if not isinstance(value, dict) or not all(
            isinstance(item, str) and is_storable(item) and is_storable(name)
            for name, item in value.items()
        ):
            raise self.refuse(key, "an object whose values are strings")
        return value


def is_storable(text: str) -> bool:
    """False for what JSON can spell and no database can store: half surrogates and NUL."""
    try:
        return b"\0" not in text.encode()
    except UnicodeEncodeError:
        return False


def _shown(value: object) -> str:
    """How it begins. Not a word more is written, however long and deep it goes on."""
    text = ""
    for part in json.JSONEncoder().iterencode(value):
        text += part[: MAX_SHOWN + 1]
        if len(text) > MAX_SHOWN:
            return f"{text[:MAX_SHOWN]}..."
    return text
