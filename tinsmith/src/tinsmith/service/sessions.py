"""A client's lifetime: begun, heard of, ended by word or by silence."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime, timedelta

from tinsmith import config
from tinsmith.domain.errors import InvalidInputError, NotFoundError
from tinsmith.domain.records import Caller, Session
from tinsmith.domain.session_search import SessionSearch, SessionSummary
from tinsmith.ledger.ledger import Ledger


class Sessions:
    def __init__(
        self,
        ledger: Ledger,
        settings: config.Service,
        ring: Callable[[str], object],
    ) -> None:
        self._ledger = ledger
        self._settings = settings
        self._ring = ring
        self._started_s = time.monotonic()

    def create(
        self,
        caller: Caller,
        *,
        idempotency_key: str | None = None,
        tags: Sequence[str] = (),
        user_metadata: Mapping[str, str] | None = None,
        display_name: str | None = None,
        project_id: str | None = None,
    ) -> Session:
        """A new session; a repeat with the same idempotency key gets the first one back."""
        return self._ledger.create_session(
            caller.owner,
            idempotency_key=idempotency_key,
            tags=tags,
            user_metadata=user_metadata or {},
            display_name=display_name,
            project_id=project_id,
        )

    def get(self, caller: Caller, session_id: str) -> Session:
        """Raises NotFoundError for what is not there or not the caller's."""
        session = self._ledger.session(session_id)
        if session is None or session.owner != caller.owner:
            raise NotFoundError(f"there is no session {session_id!r}")
        return session

    def live(self, caller: Caller, session_id: str) -> Session:
        """As `get`, for those who want to create something in it.

        Raises:
            InvalidInputError: the session is over.
        """
        session = self.get(caller, session_id)
        if session.ended_at is not None:
            raise InvalidInputError(
                f"session {session_id} ended at {session.ended_at:%Y-%m-%d %H:%M:%S} UTC; "
                "create a new ServiceClient, which opens a new session"
            )
        return session

    def list(self, caller: Caller, *, limit: int, offset: int) -> list[Session]:
        """Newest first."""
        return self._ledger.sessions(caller.owner, limit=limit, offset=offset)

    def search(self, caller: Caller, search: SessionSearch) -> tuple[list[SessionSummary], bool]:
        """One page of the caller's, newest first, and whether more follow."""
        return self._ledger.search_sessions(caller.owner, search)

    def assign_project(self, caller: Caller, session_id: str, project_id: str) -> None:
        """Label the session, and with it its runs. Raises NotFoundError."""
        self.get(caller, session_id)
        self._ledger.set_project(session_id, project_id)

    def heartbeat(self, caller: Caller, session_id: str) -> None:
        """Note that the client lives.

        Raises:
            NotFoundError: no such session, or it is over: a heartbeat does not bring it back.
        """
        self.get(caller, session_id)
        if not self._ledger.touch_session(session_id):
            raise NotFoundError(
                f"session {session_id} has ended; create a new ServiceClient to go on"
            )

    def finish(self, caller: Caller, session_id: str, reason: str) -> None:
        """End the session and release its runs. The first reason stands; a repeat does nothing."""
        self.get(caller, session_id)
        self._end(session_id, reason)

    def run_ids(self, caller: Caller, session_id: str) -> Sequence[str]:
        """Runs of the session, oldest first."""
        self.get(caller, session_id)
        return self._ledger.run_ids(session_id)

    def sampler_ids(self, caller: Caller, session_id: str) -> Sequence[str]:
        """Samplers of the session, oldest first."""
        self.get(caller, session_id)
        return self._ledger.sampler_ids(session_id)

    def end_silent(self) -> int:
        """End those that have been silent for longer than `session_silence_s`; how many. A server
        that has just started waits that long before it ends any, as nobody could be heard while
        it was down."""
        silence = timedelta(seconds=self._settings.session_silence_s)
        if time.monotonic() - self._started_s < silence.total_seconds():
            return 0
        silent = self._ledger.silent_sessions(datetime.now(UTC) - silence)
        for session in silent:
            self._end(session.session_id, "silent")
        return len(silent)

    def _end(self, session_id: str, reason: str) -> None:
        for base_model in self._ledger.end_session(session_id, reason):
            self._ring(base_model)
