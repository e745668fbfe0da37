"""What becomes of requests in an engine, as spans: queued, executed, settled."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from tinsmith.domain.outcomes import Failed, Outcome
from tinsmith.tracing import Traces, now


class RequestTraces:
    def __init__(self, traces: Traces) -> None:
        self._traces = traces
        self._arrived: dict[str, tuple[str, int]] = {}
        """Project and time, of those without a turn so far."""
        self._began: dict[str, tuple[str, int]] = {}

    def arrived(self, request_id: str, project: str) -> None:
        """It was read from the log."""
        self._arrived[request_id] = project, now()

    def began(self, request_ids: Iterable[str]) -> None:
        """These have their first turn, if they have not had it before."""
        for request_id in request_ids:
            if (waited := self._arrived.pop(request_id, None)) is not None:
                project, since = waited
                self._traces.tell(request_id, "queued", since, **{"tinsmith.project": project})
                self._began[request_id] = project, now()

    def executed(self, outcomes: Mapping[str, Outcome]) -> None:
        """Their outcomes are known, and nowhere on record."""
        for request_id, outcome in outcomes.items():
            self._arrived.pop(request_id, None)  # failed without a turn
            if (worked := self._began.pop(request_id, None)) is not None:
                project, since = worked
                self._traces.tell(
                    request_id,
                    "executed",
                    since,
                    **{"tinsmith.project": project, "tinsmith.failed": isinstance(outcome, Failed)},
                )

    def settled(self, request_ids: Iterable[str], since: int) -> None:
        """They are on record; `since` is when that was begun."""
        for request_id in request_ids:
            self._traces.tell(request_id, "settled", since)

    def forget(self, request_ids: Iterable[str]) -> None:
        """Nobody wants these any more."""
        for request_id in request_ids:
            self._arrived.pop(request_id, None)
            self._began.pop(request_id, None)
