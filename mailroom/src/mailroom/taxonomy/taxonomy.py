"""The closed set of categories that one model sorts mail into."""

from __future__ import annotations

import difflib
import hashlib
from dataclasses import dataclass
from importlib import resources
from pathlib import Path

from mailroom.mail.message import Message
from mailroom.taxonomy.category import Answer, Category, Priority, TaxonomyError
from mailroom.taxonomy.toml import TaxonomyFile, read_taxonomy, write_taxonomy

BUILTIN = ("default", "reference")
"""The taxonomies that ship with mailroom, as files beside this one."""


@dataclass(frozen=True, slots=True)
class Taxonomy:
    name: str
    categories: tuple[Category, ...]
    """In the order of the file, which is the order of tables and lists everywhere."""
    name_in_prompt: bool = False
    """Whether prompts name the categories: more tokens, of use to a model before training."""

    @classmethod
    def load(cls, name_or_file: str | Path) -> Taxonomy:
        """A built-in taxonomy by its name, or one from a TOML file.

        Raises:
            TaxonomyError: there is no such taxonomy, or it does not hold together; says where.
        """
        name = str(name_or_file)
        if name in BUILTIN:
            text = resources.files("mailroom.taxonomy").joinpath(f"{name}.toml").read_text("utf-8")
            return cls.from_toml(text, source=f"the built-in taxonomy {name}")
        path = Path(name_or_file).expanduser()
        if not path.exists():
            raise TaxonomyError(
                f"No taxonomy {name!r}: it is neither a file nor one of {', '.join(BUILTIN)}."
            )
        try:
            text = path.read_text("utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise TaxonomyError(f"Cannot read the taxonomy file {name}: {error}.") from error
        return cls.from_toml(text, source=name, default_name=path.stem)

    @classmethod
    def from_toml(
        cls, text: str, *, source: str = "the taxonomy", default_name: str = "unnamed"
    ) -> Taxonomy:
        """The taxonomy that a TOML text describes; `source` is what errors call it."""
        file = read_taxonomy(text, source, default_name)
        return cls(file.name, file.categories, file.name_in_prompt)

    def to_toml(self) -> str:
        """The whole taxonomy as compact TOML, small enough to travel in a run's metadata."""
        return write_taxonomy(TaxonomyFile(self.name, self.categories, self.name_in_prompt))

    @property
    def digest(self) -> str:
        """SHA-256 of what the taxonomy says; comments and layout of its file do not count."""
        return hashlib.sha256(self.to_toml().encode()).hexdigest()

    @property
    def keys(self) -> tuple[str, ...]:
        return tuple(category.key for category in self.categories)

    @property
    def priorities(self) -> dict[str, Priority]:
        """Priority by category key."""
        return {category.key: category.priority for category in self.categories}

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(category.name for category in self.categories)

    def category(self, key: str) -> Category:
        """The category with this key.

        Raises:
            TaxonomyError: there is none; names the nearest and all that are.
        """
        for category in self.categories:
            if category.key == key:
                return category
        near = difflib.get_close_matches(key, self.keys, n=1)
        hint = f" Did you mean {near[0]!r}?" if near else ""
        raise TaxonomyError(
            f"Taxonomy {self.name} has no category {key!r}.{hint} It has: {', '.join(self.keys)}."
        )

    def named(self, name: str) -> Category | None:
        """The category with exactly this formatted name, or None."""
        return next((category for category in self.categories if category.name == name), None)

    def find(self, label: str) -> Category | None:
        """The category that a data set's label means: key or name, case and `-`, ` `, `_` alike."""
        wanted = _folded(label)
        return next(
            (c for c in self.categories if wanted in {_folded(c.key), _folded(c.name)}), None
        )

    def answer(self, category_key: str, message: Message) -> Answer:
        """The four steps for a message, once its category is known."""
        return self.category(category_key).answer(f"{message.subject}\n{message.body}")


def _folded(label: str) -> str:
    return "_".join(label.casefold().replace("-", " ").replace("_", " ").split())
