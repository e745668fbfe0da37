"""The base models that this server offers."""

from __future__ import annotations

from collections.abc import Sequence

from tinsmith.domain.errors import InvalidInputError
from tinsmith.domain.records import ServedModel


class Models:
    def __init__(self, models: Sequence[ServedModel]) -> None:
        self._models = {model.name: model for model in models}

    def list(self) -> tuple[ServedModel, ...]:
        return tuple(self._models.values())

    def get(self, name: str) -> ServedModel:
        """Raises InvalidInputError, naming those served, for any other name."""
        try:
            return self._models[name]
        except KeyError:
            served = ", ".join(self._models) or "none"
            raise InvalidInputError(
                f"base model {name!r} is not served here; served: {served}"
            ) from None
