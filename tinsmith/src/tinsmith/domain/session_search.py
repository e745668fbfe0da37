"""A search among sessions, and what it shows of each."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime

from tinsmith.domain.records import Session

CLIENT_REASONS = ("success", "errored", "interrupted")
"""What a client may say when it finishes a session."""


@dataclass(frozen=True, slots=True)
class SearchPlace:
    """The last session of a page; the next page starts behind it."""

    created_at: datetime
    session_id: str


@dataclass(frozen=True, slots=True)
class SessionSearch:
    """Every condition that is given must hold, but of `session_id` and `display_name` one is
    enough if both are given."""

    limit: int = 50
    session_id: str | None = None
    display_name: str | None = None
    """Words that must all occur in the name, in any case."""
    project_ids: tuple[str | None, ...] | None = None
    """None among them: sessions without a project."""
    user_metadata: Mapping[str, str] = field(default_factory=dict)
    is_active: bool = True
    """Whether sessions that still run are wanted."""
    end_reasons: tuple[str, ...] | None = None
    """Wanted reasons of those that have ended; None: all, without a reason of the client too."""
    after: SearchPlace | None = None

    def matches(self, session: Session) -> bool:
        return (
            self._matches_name(session)
            and self._matches_status(session)
            and (self.project_ids is None or session.project_id in self.project_ids)
            and self.user_metadata.items() <= session.user_metadata.items()
        )

    def _matches_name(self, session: Session) -> bool:
        if self.session_id is None and self.display_name is None:
            return True
        if self.session_id == session.session_id:
            return True
        name = (session.display_name or "").lower()
        words = (self.display_name or "").lower().split()
        return bool(words) and all(word in name for word in words)

    def _matches_status(self, session: Session) -> bool:
        if session.ended_at is None:
            return self.is_active
        return self.end_reasons is None or session.end_reason in self.end_reasons


@dataclass(frozen=True, slots=True)
class SessionSummary:
    session: Session
    num_checkpoints: int
    checkpoint_bytes: int
