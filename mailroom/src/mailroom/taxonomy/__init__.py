"""The categories of mail, what each one asks for, and the files that say so."""

from mailroom.taxonomy.category import (
    NO_RESPONSE,
    NO_RULE,
    PRIORITIES,
    Answer,
    Category,
    ContentRule,
    Priority,
    TaxonomyError,
)
from mailroom.taxonomy.taxonomy import Taxonomy

__all__ = [
    "NO_RESPONSE",
    "NO_RULE",
    "PRIORITIES",
    "Answer",
    "Category",
    "ContentRule",
    "Priority",
    "Taxonomy",
    "TaxonomyError",
]
