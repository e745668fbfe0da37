"""Projects and their keys, as methods of the ledger."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime

from sqlalchemy import Connection

from tinsmith.domain.audit import AuditEntry
from tinsmith.domain.projects import ApiKey, Project
from tinsmith.ledger import audit_rows, project_rows
from tinsmith.ledger.ledger_file import LedgerFile


class ProjectLedger(LedgerFile):
    def create_project(self, name: str) -> Project:
        """Make it, or find the one of that name."""
        return self._write(lambda connection: project_rows.create_project(connection, name))

    def change_project(
        self,
        name: str,
        *,
        weight: float | None = None,
        quotas: Mapping[str, float | None] | None = None,
        noted: AuditEntry | None = None,
    ) -> Project:
        """Set the weight if one is given, and the quotas that are named; None takes one off. A
        project that is not there is made."""

        def change(connection: Connection) -> Project:
            changed = project_rows.change_project(connection, name, weight, quotas or {})
            if noted is not None:
                audit_rows.insert_entry(connection, noted)
            return changed

        return self._write(change)

    def project(self, name: str) -> Project | None:
        """None: nobody has said anything about it, and the server's settings hold."""
        with self._read() as connection:
            return project_rows.find_project(connection, name)

    def projects(self) -> list[Project]:
        """By name."""
        with self._read() as connection:
            return project_rows.list_projects(connection)

    def create_key(self, key: ApiKey, noted: AuditEntry) -> None:
        """Enter a key, and its project if that is new."""

        def create(connection: Connection) -> None:
            project_rows.create_key(connection, key)
            audit_rows.insert_entry(connection, noted)

        self._write(create)

    def api_key(self, key_id: str) -> ApiKey | None:
        """Revoked and expired ones too."""
        with self._read() as connection:
            return project_rows.find_key(connection, key_id)

    def api_keys(self, project: str | None = None) -> list[ApiKey]:
        """Oldest first, revoked and expired ones too."""
        with self._read() as connection:
            return project_rows.list_keys(connection, project)

    def has_keys(self) -> bool:
        """Whether there has ever been one: also when all are revoked, nobody comes in without."""
        with self._read() as connection:
            return project_rows.has_keys(connection)

    def revoke_key(self, key_id: str, noted: AuditEntry) -> bool:
        """False if there is no such key, or it was revoked before."""

        def revoke(connection: Connection) -> bool:
            is_done = project_rows.revoke_key(connection, key_id)
            if is_done:
                audit_rows.insert_entry(connection, noted)
            return is_done

        return self._write(revoke)

    def touch_key(self, key_id: str, now: datetime) -> None:
        """Note that it was used, with the next group of writes."""
        self._write_later(lambda connection: project_rows.touch_key(connection, key_id, now))
