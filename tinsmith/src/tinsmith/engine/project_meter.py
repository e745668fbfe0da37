"""How long each project's work has waited, and what it has had since."""

from __future__ import annotations

import time
from bisect import bisect_left
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from tinsmith.domain.engine_report import WAIT_S_BOUNDS, WAIT_TURNS_BOUNDS, ProjectReport
from tinsmith.scheduler.turns import Idle, Turn

REMEMBERED_S = 900.0
"""Projects without work are told of for so long, so that there are never more than are in use."""


@dataclass(slots=True)
class _Account:
    """What is counted of a project."""

    last_work: float = 0.0
    """When, on the monotonic clock."""
    turns: int = 0
    tokens: int = 0
    wait_turns: list[int] = field(default_factory=lambda: [0] * (len(WAIT_TURNS_BOUNDS) + 1))
    wait_turns_sum: int = 0
    wait_s: list[int] = field(default_factory=lambda: [0] * (len(WAIT_S_BOUNDS) + 1))
    wait_s_sum: float = 0.0


class ProjectMeter:
    def __init__(self) -> None:
        self._accounts: dict[str, _Account] = {}
        self._num_turns = 0
        self._under_way: str | None = None
        """Whose turn is, or was just now."""
        self._waiting: dict[str, tuple[str, float, int]] = {}
        """Project, time and others' turns at its arrival, by request."""

    def arrived(self, request_id: str, project: str) -> None:
        """A request was read from the log. The turn that it fell in, or came right after, is one
        that it waits for."""
        others = self._turns_of_others(project)
        if self._under_way not in (None, project):
            others -= 1
        self._waiting[request_id] = project, time.monotonic(), others

    def turn(self, turn: Turn) -> None:
        """This is the next turn."""
        if isinstance(turn, Idle):
            self._under_way = None
            return
        self._under_way = turn.project
        self._num_turns += 1
        self._account(turn.project).turns += 1

    def began(self, request_ids: Iterable[str]) -> None:
        """These have their first turn, if they have not had it before."""
        for request_id in request_ids:
            if (arrival := self._waiting.pop(request_id, None)) is None:
                continue
            project, arrived_at, others = arrival
            account = self._account(project)
            turns = self._turns_of_others(project) - others
            seconds = time.monotonic() - arrived_at
            account.wait_turns[bisect_left(WAIT_TURNS_BOUNDS, turns)] += 1
            account.wait_turns_sum += turns
            account.wait_s[bisect_left(WAIT_S_BOUNDS, seconds)] += 1
            account.wait_s_sum += seconds

    def forget(self, request_ids: Iterable[str]) -> None:
        """These wait no longer, whether or not they ever began."""
        for request_id in request_ids:
            self._waiting.pop(request_id, None)

    def worked(self, tokens: Mapping[str, int]) -> None:
        """Tokens that went through the model, by project."""
        for project, count in tokens.items():
            self._account(project).tokens += count

    def reports(self, ops: Counter[str], requests: Counter[str]) -> dict[str, ProjectReport]:
        """By project, of those that have work now or had lately.

        Args:
            ops: of runs, waiting.
            requests: for samples, waiting.
        """
        now = time.monotonic()
        for project in ops | requests:
            self._account(project)
        self._accounts = {
            project: account
            for project, account in self._accounts.items()
            if now - account.last_work < REMEMBERED_S
        }
        return {
            project: ProjectReport(
                ops_waiting=ops[project],
                requests_waiting=requests[project],
                turns=account.turns,
                tokens=account.tokens,
                wait_turns=tuple(account.wait_turns),
                wait_turns_sum=account.wait_turns_sum,
                wait_s=tuple(account.wait_s),
                wait_s_sum=round(account.wait_s_sum, 3),
            )
            for project, account in sorted(self._accounts.items())
        }

    def _turns_of_others(self, project: str) -> int:
        known = self._accounts.get(project)
        return self._num_turns - (0 if known is None else known.turns)

    def _account(self, project: str) -> _Account:
        account = self._accounts.setdefault(project, _Account())
        account.last_work = time.monotonic()
        return account
