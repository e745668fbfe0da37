"""Whose turn is it? Pure functions of what waits and of what was charged; no clock, no tensors.

A turn is one micro-batch of training, one op without one (create, step, save, load), or one prefill
or decode step of sampling. Projects share the engine by weight, as `fair_share` says: a project
that owes nothing waits at most one turn of each other, whatever they have queued. Within a project
sampling takes turns with training, and runs share alike.

A step of sampling serves the sequences of all projects at once and is charged to all of them.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, replace

from tinsmith.scheduler.fair_share import Shares, Weights, next_of

LEAST_TURN_TOKENS = 16
"""What a turn costs that has fewer tokens or none. A pass reads all weights however few its tokens
are; docs/decisions/0021 says what was measured."""


@dataclass(frozen=True, slots=True)
class Backlog:
    """What waits at one engine."""

    runs: Mapping[str, Collection[str]]
    """Runs with an op to execute, by project; at least one of each."""
    samples: Collection[str]
    """Projects with sequences that wait for prefill or decode."""


@dataclass(frozen=True, slots=True)
class RunTurn:
    """The next micro-batch, or the next op, of this run."""

    project: str
    run_id: str


@dataclass(frozen=True, slots=True)
class SampleTurn:
    """One prefill or decode step of all sequences."""

    project: str
    """Whose turn it is to have one."""


@dataclass(frozen=True, slots=True)
class Idle:
    """Nothing waits."""


Turn = RunTurn | SampleTurn | Idle


@dataclass(frozen=True, slots=True)
class Accounts:
    """What fairness has to remember."""

    projects: Shares = field(default_factory=Shares)
    runs: Mapping[str, Shares] = field(default_factory=dict[str, Shares])
    """By project."""
    have_sampled: frozenset[str] = frozenset()
    """Projects whose last turn was one of sampling."""

    def charge_run(self, turn: RunTurn, tokens: float) -> Accounts:
        """To the project, and within it to the run."""
        of_runs = self.runs.get(turn.project, Shares()).charge(turn.run_id, tokens)
        return replace(
            self,
            projects=self.projects.charge(turn.project, tokens),
            runs={**self.runs, turn.project: of_runs},
        )

    def charge_sampling(
        self, turn: SampleTurn, tokens: Mapping[str, int], weights: Weights
    ) -> Accounts:
        """With a step of sampling: to each project its tokens, read and generated.

        Who has the step in another's turn costs nobody much, and pays until it owes more for its
        weight than anybody else: it must not be shut out later for what was going on anyway.
        """
        charged = self.projects.charge(
            turn.project, max(LEAST_TURN_TOKENS, tokens.get(turn.project, 0))
        )
        for project, count in tokens.items():
            if project != turn.project and not self._owes_most(project, weights):
                charged = charged.charge(project, count)
        return replace(self, projects=charged)

    def turn_between_layers(
        self, training: str, sampling: Collection[str], weights: Weights
    ) -> SampleTurn | None:
        """A step of sampling that may come in before the next layer of a micro-batch, if any may.

        Args:
            training: the project of the micro-batch, which it has been charged with.
            sampling: those with sequences that wait.
        """
        until = self.projects.rounds_until(training, weights)
        rounds, project = min(
            ((self.projects.rounds_until(one, weights), one) for one in sampling),
            default=(until, None),
        )
        if project is not None and rounds <= until:
            return SampleTurn(project)
        return SampleTurn(training) if training in sampling else None

    def _owes_most(self, project: str, weights: Weights) -> bool:
        rounds = self.projects.rounds_until(project, weights)
        return all(
            rounds > self.projects.rounds_until(other, weights)
            for other in self.projects.owed
            if other != project
        )


def next_turn(backlog: Backlog, accounts: Accounts, weights: Weights) -> tuple[Turn, Accounts]:
    """The turn to take, and the accounts to charge it to: LEAST_TURN_TOKENS at least."""
    waiting = sorted({*backlog.runs, *backlog.samples})
    if not waiting:
        return Idle(), Accounts()
    project, projects = next_of(accounts.projects, waiting, weights)
    runs = backlog.runs.get(project, ())
    if project in backlog.samples and not (runs and project in accounts.have_sampled):
        have_sampled = accounts.have_sampled | {project}
        return SampleTurn(project), Accounts(projects, accounts.runs, have_sampled)
    run_id, of_runs = next_of(accounts.runs.get(project, Shares()), sorted(runs), {})
    known = {name: shares for name, shares in accounts.runs.items() if name in projects.owed}
    return RunTurn(project, run_id), Accounts(
        projects, {**known, project: of_runs}, accounts.have_sampled - {project}
    )
