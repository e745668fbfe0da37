"""Making keys and taking them back."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta

from tinsmith.domain.audit import AuditEntry
from tinsmith.domain.errors import InvalidInputError, NotFoundError
from tinsmith.domain.key_text import digest_of, key_id_of, new_key
from tinsmith.domain.projects import ApiKey, Role, check_project_name
from tinsmith.ledger.ledger import Ledger

MAX_LABEL = 200
DONE = 200
"""In the audit log, as for a request that went well."""


class Keys:
    """May work beside a running server, which notices within a second."""

    def __init__(self, ledger: Ledger, author: str) -> None:
        """author: where the audit log says that it was done."""
        self._ledger = ledger
        self._author = author

    def create(
        self, project: str, role: Role, *, label: str = "", expires_days: float | None = None
    ) -> tuple[ApiKey, str]:
        """A new key, and its text, which is to be had only now. Makes the project if it is new.

        Raises:
            InvalidInputError: no name for a project, a label too long, or no time to live.
        """
        check_project_name(project)
        if len(label) > MAX_LABEL or not label.isprintable():
            raise InvalidInputError(f"a label is at most {MAX_LABEL} characters on one line")
        now = datetime.now(UTC)
        expires_at = None
        if expires_days is not None:
            if not 0 < expires_days <= 36_500:
                raise InvalidInputError(f"{expires_days:g} days are no time for a key to live")
            expires_at = now + timedelta(days=expires_days)
        text = new_key()
        digest = digest_of(text)
        key = ApiKey(key_id_of(digest), digest, project, role, label, now, expires_at)
        self._ledger.create_key(key, self._noted(key, "key_create"))
        return key, text

    def list(self) -> Sequence[ApiKey]:
        """Oldest first, revoked and expired ones too."""
        return self._ledger.api_keys()

    def revoke(self, key_id: str) -> ApiKey:
        """Take it back for good, with the tokens that stand for it; a repeat does nothing.

        Raises:
            NotFoundError: no such key.
        """
        key = self._ledger.api_key(key_id)
        if key is None:
            raise NotFoundError(
                f"there is no key {key_id!r}; `tinsmith keys list` has the ids of all keys"
            )
        self._ledger.revoke_key(key_id, self._noted(key, "key_revoke"))
        return key

    def _noted(self, key: ApiKey, action: str) -> AuditEntry:
        return AuditEntry(
            datetime.now(UTC), key.project, None, self._author, action, key.key_id, DONE
        )
