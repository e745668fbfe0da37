"""A client's lifetime: begun, heard of, ended by word or by silence."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from tinsmith import config
from tinsmith.checkpoints.store import CheckpointStore
from tinsmith.domain.errors import InvalidInputError, NotFoundError
from tinsmith.domain.records import Caller, Session
from tinsmith.domain.session_search import SessionSearch, SessionSummary
from tinsmith.ledger.entries import SweepCount
from tinsmith.ledger.ledger import Ledger


@dataclass(frozen=True, slots=True)
class Swept:
    """What one round of tidying up did."""

    sessions_ended: int
    checkpoints_deleted: int
    ledger: SweepCount


class Sessions:
    def __init__(
        self,
        ledger: Ledger,
        store: CheckpointStore,
        settings: config.Service,
        ring: Callable[[str], object],
    ) -> None:
        self._ledger = ledger
        self._store = store
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

    def sweep(self) -> Swept:
        """Tidy up; meant to be called once a minute or so.

        Ends sessions that have been silent for longer than `session_silence_s` (a server that
        has just started waits that long before it ends any, as nobody could be heard while it
        was down), deletes expired checkpoints and, of ended sessions, the unnamed ones, and
        lets the ledger drop what nobody can ask for any more.
        """
        now = datetime.now(UTC)
        silence = timedelta(seconds=self._settings.session_silence_s)
        silent: Sequence[Session] = ()
        if time.monotonic() - self._started_s >= silence.total_seconds():
            silent = self._ledger.silent_sessions(now - silence)
        for session in silent:
            self._end(session.session_id, "silent")
        doomed = self._ledger.expired_checkpoints(now)
        for checkpoint in doomed:
            # The row goes first: a crash in between leaves bytes without a name, which the next
            # save under that name replaces, and never a name without bytes.
            self._ledger.delete_checkpoint(checkpoint.address)
            self._store.delete(checkpoint.address)
        kept_from = now - timedelta(seconds=self._settings.sample_retention_s)
        return Swept(len(silent), len(doomed), self._ledger.sweep(kept_from))

    def _end(self, session_id: str, reason: str) -> None:
        for base_model in self._ledger.end_session(session_id, reason):
            self._ring(base_model)
