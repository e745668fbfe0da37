"""Session searches and their pages <-> the domain."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from tinsmith.api.wire.fields import Fields
from tinsmith.domain.session_search import (
    CLIENT_REASONS,
    SearchPlace,
    SessionSearch,
    SessionSummary,
)

MAX_PAGE = 200
NO_PROJECT = "default"
"""Shown for sessions without a project: the SDK wants a name."""
_ENDED = {"client_finished": CLIENT_REASONS, "cancelled": (), "failed": ()}
"""Status asked for -> reasons for which sessions end here. None is ever cancelled or failed: an op
that fails does not end its session."""


def urn_of(owner: str) -> str:
    return f"tml:organization_user:{owner}"


def read_session_search(fields: Fields, owner: str) -> SessionSearch | None:
    """None if it asks for other people's sessions only: there is nothing to find then."""
    asked = fields.object_or("owner", Fields({"type": "own"}))
    whose = asked.text_or("type", "own")
    if whose == "user":
        if urn_of(owner) not in _texts(asked, "owner_urns", []):
            return None
    elif whose not in ("own", "accessible"):
        raise asked.refuse("type", "own, accessible or user")
    is_active, end_reasons = _read_statuses(fields)
    return SessionSearch(
        limit=fields.integer_or("limit", 50, low=1, high=MAX_PAGE),
        session_id=fields.text_or("session_id", None),
        display_name=fields.text_or("display_name", None),
        project_ids=_project_ids(fields),
        user_metadata=fields.metadata("user_metadata"),
        is_active=is_active,
        end_reasons=end_reasons,
        after=_read_cursor(fields),
    )


def _project_ids(fields: Fields) -> tuple[str | None, ...] | None:
    if not fields.has("project_ids"):
        return None
    names = _texts(fields, "project_ids", [])
    return tuple(None if name == NO_PROJECT else name for name in names)


def _read_statuses(fields: Fields) -> tuple[bool, tuple[str, ...] | None]:
    if not fields.has("statuses"):
        return True, None
    is_active, reasons = False, set[str]()
    for index, status in enumerate(fields.items_or("statuses", [])):
        kind = status.get("type") if isinstance(status, dict) else None
        if kind == "active":
            is_active = True
        elif isinstance(kind, str) and kind in _ENDED:
            wanted = _texts(Fields(status, f"statuses[{index}]."), "reasons", None)
            reasons.update(_ENDED[kind] if wanted is None else wanted)
        else:
            raise fields.refuse(
                "statuses", f"a list of objects whose type is active, {', '.join(_ENDED)}"
            )
    return is_active, tuple(sorted(reasons))


def _read_cursor(fields: Fields) -> SearchPlace | None:
    cursor = fields.object_or("cursor", None)
    if cursor is None:
        return None
    text = cursor.text("last_created_at")
    try:
        created_at = datetime.fromisoformat(text)
    except ValueError:
        raise cursor.refuse("last_created_at", "a time in ISO 8601 form") from None
    if created_at.tzinfo is None:
        raise cursor.refuse("last_created_at", "a time with its zone")
    return SearchPlace(created_at.astimezone(UTC), cursor.text("last_session_id"))


def _texts(fields: Fields, key: str, default: Any) -> Any:
    values = fields.items_or(key, default)
    if values is not default and not all(isinstance(value, str) for value in values):
        raise fields.refuse(key, "a list of strings")
    return values


def write_search_page(found: list[SessionSummary], has_more: bool) -> dict[str, Any]:
    page: dict[str, Any] = {"sessions": [_write_summary(summary) for summary in found]}
    if has_more and found:
        last = found[-1].session
        page["next_cursor"] = {
            "last_created_at": last.created_at.isoformat(),
            "last_session_id": last.session_id,
        }
    return page


def _write_summary(summary: SessionSummary) -> dict[str, Any]:
    session = summary.session
    return {
        "session_id": session.session_id,
        "created_at": session.created_at.isoformat(),
        "owner": urn_of(session.owner),
        "project_id": session.project_id or NO_PROJECT,
        "status": _write_status(summary),
        "checkpoints_count": summary.num_checkpoints,
        "checkpoint_storage_bytes": summary.checkpoint_bytes,
        "display_name": session.display_name,
        "user_metadata": dict(session.user_metadata) or None,
    }


def _write_status(summary: SessionSummary) -> dict[str, Any] | None:
    session = summary.session
    if session.ended_at is None:
        return {"type": "active"}
    if session.end_reason in CLIENT_REASONS:
        return {"type": "client_finished", "reason": {"type": session.end_reason}}
    return None  # it fell silent, or never had a client
