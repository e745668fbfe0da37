"""What `AdminClient.get_audit_log` reads."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from tinsmith.domain.audit import AuditEntry

ADDRESS_MARK = "tinker://"


def write_audit(entries: Sequence[AuditEntry]) -> dict[str, Any]:
    return {"entries": [_write(entry) for entry in entries]}


def _write(entry: AuditEntry) -> dict[str, Any]:
    written: dict[str, Any] = {
        "timestamp": entry.at.isoformat(),
        "event": entry.action,
        "event_details": {
            "project": entry.project,
            "key_id": entry.key_id,
            "address": entry.address,
            "object": entry.object,
            "status": entry.status,
        },
    }
    if entry.object is not None and entry.object.startswith(ADDRESS_MARK):
        written["tinker_path"] = entry.object
        written["model_id"] = entry.object.removeprefix(ADDRESS_MARK).partition("/")[0]
    return written
