"""Projects and their keys, as methods of the ledger."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime

from tinsmith.domain.projects import ApiKey, Project
from tinsmith.ledger import project_rows
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
    ) -> Project:
        """Set the weight if one is given, and the quotas that are named; None takes one off. A
        project that is not there is made."""
        return self._write(
            lambda connection: project_rows.change_project(connection, name, weight, quotas or {})
        )

    def project(self, name: str) -> Project | None:
        """None: nobody has said anything about it, and the server's settings hold."""
        with self._read() as connection:
            return project_rows.find_project(connection, name)

    def projects(self) -> list[Project]:
        """By name."""
        with self._read() as connection:
            return project_rows.list_projects(connection)

    def create_key(self, key: ApiKey, digest: bytes) -> None:
        """Enter a key, and its project if that is new.

        Args:
            digest: SHA-256 of the key's text.
        """
        self._write(lambda connection: project_rows.create_key(connection, key, digest))

    def api_key(self, digest: bytes) -> ApiKey | None:
        """The key with this SHA-256, revoked and expired ones too."""
        with self._read() as connection:
            return project_rows.find_key(connection, digest)

    def api_key_by_id(self, key_id: str) -> ApiKey | None:
        """As `api_key`."""
        with self._read() as connection:
            return project_rows.find_key_by_id(connection, key_id)

    def api_keys(self, project: str | None = None) -> list[ApiKey]:
        """Oldest first, revoked and expired ones too."""
        with self._read() as connection:
            return project_rows.list_keys(connection, project)

    def has_keys(self) -> bool:
        """Whether there has ever been one: also when all are revoked, nobody comes in without."""
        with self._read() as connection:
            return project_rows.has_keys(connection)

    def revoke_key(self, key_id: str) -> bool:
        """False if there is no such key, or it was revoked before."""
        return self._write(lambda connection: project_rows.revoke_key(connection, key_id))

    def touch_key(self, key_id: str, now: datetime) -> None:
        """Note that it was used."""
        self._write(lambda connection: project_rows.touch_key(connection, key_id, now))
