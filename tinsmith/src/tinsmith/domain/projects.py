"""Projects, which own everything, and the keys that open them."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum

from tinsmith.domain.errors import InvalidInputError

LOCAL_PROJECT = "local"
"""Owns what is made on a server without keys."""
LEAST_WEIGHT, MOST_WEIGHT = 0.01, 100.0
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}", re.ASCII)


class Role(StrEnum):
    OWNER = "owner"
    """May do everything in its project."""
    MEMBER = "member"
    """Trains, samples and saves."""
    READ_ONLY = "read-only"
    """Sees what is there, and downloads it."""


@dataclass(frozen=True, slots=True)
class Project:
    """The owner of sessions, runs, samplers and checkpoints: their `owner` is its name."""

    name: str
    created_at: datetime
    weight: float = 1.0
    """Its share of the engines' time, beside the others' weights."""
    quotas: Mapping[str, float] = field(default_factory=dict)
    """By the names of the settings under `quotas`; what is absent takes the server's setting."""


@dataclass(frozen=True, slots=True)
class ApiKey:
    """What is kept of a key; the key itself is kept nowhere."""

    key_id: str
    digest: bytes = field(repr=False)
    """SHA-256 of its text."""
    project: str
    role: Role
    label: str
    created_at: datetime
    expires_at: datetime | None = None
    last_used_at: datetime | None = None
    """To the minute."""
    revoked_at: datetime | None = None

    def is_good_at(self, now: datetime) -> bool:
        is_in_time = self.expires_at is None or now < self.expires_at
        return is_in_time and self.revoked_at is None


def check_project_name(name: str) -> None:
    """Raises InvalidInputError."""
    if not _NAME.fullmatch(name):
        raise InvalidInputError(
            f"{name!r} is no name for a project: letters, digits, dots, dashes and underscores, "
            "at most 64, a letter or digit first"
        )


def check_weight(weight: float) -> None:
    """Raises InvalidInputError."""
    if not LEAST_WEIGHT <= weight <= MOST_WEIGHT:
        raise InvalidInputError(
            f"{weight:g} is no weight for a project: from {LEAST_WEIGHT:g} to {MOST_WEIGHT:g}"
        )
