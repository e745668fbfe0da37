"""Sessions, as methods of the ledger."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime

from tinsmith.domain.records import Session
from tinsmith.domain.session_search import SessionSearch, SessionSummary
from tinsmith.ledger import oplog, session_rows, session_search
from tinsmith.ledger.ledger_file import LedgerFile


class SessionLedger(LedgerFile):
    def create_session(
        self,
        owner: str,
        *,
        idempotency_key: str | None = None,
        tags: Sequence[str] = (),
        user_metadata: Mapping[str, str] | None = None,
        display_name: str | None = None,
        project_id: str | None = None,
    ) -> Session:
        """A new session; the same owner and idempotency key get the first one back."""
        return self._write(
            lambda connection: session_rows.create_session(
                connection,
                owner,
                idempotency_key,
                tags,
                user_metadata or {},
                display_name,
                project_id,
            )
        )

    def touch_session(self, session_id: str) -> bool:
        """Note that it was heard of just now; False if it is not there or over."""
        return self._write(lambda connection: session_rows.touch_session(connection, session_id))

    def end_session(self, session_id: str, reason: str) -> list[str]:
        """End it and release its runs, in one transaction. The first reason stands.

        Returns:
            base models whose engines now have something to release.
        """
        return self._write(lambda connection: oplog.end_session(connection, session_id, reason))

    def session(self, session_id: str) -> Session | None:
        with self._read() as connection:
            return session_rows.find_session(connection, session_id)

    def sessions(self, owner: str, *, limit: int, offset: int = 0) -> list[Session]:
        """Newest first."""
        with self._read() as connection:
            return session_rows.list_sessions(connection, owner, limit, offset)

    def search_sessions(
        self, owner: str, search: SessionSearch
    ) -> tuple[list[SessionSummary], bool]:
        """One page, newest first, and whether more follow."""
        with self._read() as connection:
            return session_search.search_sessions(connection, owner, search)

    def set_project(self, session_id: str, project_id: str) -> bool:
        """False if there is no such session."""
        return self._write(
            lambda connection: session_rows.set_project(connection, session_id, project_id)
        )

    def silent_sessions(self, before: datetime) -> list[Session]:
        """Those not ended of which nothing, heartbeat or training op, was heard since."""
        with self._read() as connection:
            return session_rows.silent_sessions(connection, before)
