"""What the audit log holds."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime


@dataclass(frozen=True, slots=True)
class AuditEntry:
    """Who did what to what, and what came of it; never any content."""

    at: datetime
    project: str | None
    """In which it was done."""
    key_id: str | None
    """None: the local user of a server without keys, or a command."""
    address: str | None
    """Where it came from: a network address, or `command line` and the user's name."""
    action: str
    """<resource>_<action>, such as checkpoint_delete."""
    object: str | None
    """The id of what it was done to."""
    status: int
    """The HTTP status of the answer: below 300 it was done, 403 it was refused."""
