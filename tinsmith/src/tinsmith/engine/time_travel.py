"""What the log of a run makes possible: to go back to one of its steps, and to do it all again.

Works beside a running server and without one: it reads the log and computes for itself.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass

import torch

from tinsmith.base_models import resolve
from tinsmith.checkpoints.snapshots import DamagedSnapshotError, SnapshotStore
from tinsmith.config import Config
from tinsmith.domain.addresses import CheckpointAddress, check_name
from tinsmith.domain.adopted_runs import FORKED
from tinsmith.domain.errors import InvalidInputError
from tinsmith.domain.records import Run, Snapshot
from tinsmith.engine.adapter_config import adapter_config
from tinsmith.engine.adopting import Material, adopt
from tinsmith.engine.loading import compute_deterministically, load_base_model
from tinsmith.engine.planning import planned_training
from tinsmith.engine.replay import Replay
from tinsmith.ledger.coverage import find_run, first_step, steps_of
from tinsmith.ledger.ledger import Ledger
from tinsmith.ledger.schema import RELEASE_SEQ_ID

Progress = Callable[[int, int], None]
"""Called with how many ops have been repeated, and of how many."""


@dataclass(frozen=True, slots=True)
class Forked:
    address: CheckpointAddress
    step: int
    seq_id: int
    num_repeated: int
    is_exact: bool
    """Whether all that was repeated gave the bits of the first time."""


@dataclass(frozen=True, slots=True)
class Verified:
    first_step: int
    """The step behind which it began."""
    last_step: int
    num_repeated: int
    differing: tuple[int, ...]
    """seq_ids of ops that gave other bits than the first time."""
    num_snapshots: int
    """Snapshots whose weights and moments were compared with what came out."""
    differing_snapshots: tuple[int, ...]
    """seq_ids of those that differ or can't be read."""
    seconds: float

    @property
    def is_exact(self) -> bool:
        return not self.differing and not self.differing_snapshots


def fork(
    config: Config,
    run_id: str,
    step: int,
    *,
    name: str | None = None,
    model: str | None = None,
    progress: Progress | None = None,
) -> Forked:
    """Make a training checkpoint, under a run of its own, of what a run was right after a step.

    Args:
        step: optimizer steps taken; 0 is the run as it was made.
        name: of the checkpoint; None is `step-<step>`.
        model: the base model as `serve --model` takes it; None goes by the run's.

    Raises:
        NotFoundError: there is no such run.
        InvalidInputError: the run has not got so far, or its log no longer reaches back to it.
        RunLostError: what is needed can't be read.
    """
    chosen = check_name(name or f"step-{step}")
    with closing(Ledger.open(config.ledger)) as ledger:
        run = find_run(ledger, run_id)
        history, snapshots = ledger.history(run_id), ledger.snapshots(run_id)
        steps = steps_of(history)
        reached = first_step(history, snapshots)
        if not 0 <= step <= len(steps):
            raise InvalidInputError(
                f"run {run_id} has taken {len(steps)} steps; there is no {step}"
            )
        if reached is None or step < reached:
            raise InvalidInputError(
                f"the log of run {run_id} reaches back to step {reached}, not to {step}"
                if reached is not None
                else f"the history of run {run_id} is kept no longer"
            )
        seq_id = steps[step - 1] if step else 0
        replay = _replay(config, ledger, run, model, before=seq_id + 1)
        replay.begin()
        _to_the_end(replay, progress)
        state = replay.state
        layout = state.layout
        material = Material(
            run.base_model,
            run.lora,
            state.adapter.to_arrays(),
            adapter_config(
                run.base_model,
                run.lora.rank,
                layout.peft_target_modules,
                layout.peft_target_parameters,
            ),
            state.optimizer.to_arrays(),
        )
    address = adopt(config, material, owner=run.owner, name=chosen, how=FORKED)
    return Forked(address, step, seq_id, replay.num_repeated, not replay.differing)


def verify(
    config: Config, run_id: str, *, model: str | None = None, progress: Progress | None = None
) -> Verified:
    """Do all of a run again that its log still holds, and compare each outcome and each snapshot,
    bit for bit. Changes nothing.

    Raises:
        NotFoundError, RunLostError: as `fork`.
        InvalidInputError: its history is kept no longer.
    """
    started = time.monotonic()
    with closing(Ledger.open(config.ledger)) as ledger:
        run = find_run(ledger, run_id)
        history = ledger.history(run_id)
        snapshots = ledger.snapshots(run_id)[::-1]
        reached = first_step(history, snapshots)
        if reached is None:
            raise InvalidInputError(f"the history of run {run_id} is kept no longer")
        replay = _replay(config, ledger, run, model, before=RELEASE_SEQ_ID, from_oldest=True)
        replay.begin()
        first_seq = replay.at
        compared = [one for one in snapshots if one.seq_id > first_seq and not one.notes["is_load"]]
        waiting, differing = list(compared), []

        def compare(next_seq_id: int) -> None:
            while waiting and waiting[0].seq_id < next_seq_id:
                one = waiting.pop(0)
                if not _is_same(replay, one):
                    differing.append(one.seq_id)

        _to_the_end(replay, progress, compare)
    return Verified(
        first_step=sum(seq_id <= first_seq for seq_id in steps_of(history)),
        last_step=len(steps_of(history)),
        num_repeated=replay.num_repeated,
        differing=tuple(replay.differing),
        num_snapshots=len(compared),
        differing_snapshots=tuple(differing),
        seconds=time.monotonic() - started,
    )


def _replay(
    config: Config,
    ledger: Ledger,
    run: Run,
    model: str | None,
    *,
    before: int,
    from_oldest: bool = False,
) -> Replay:
    served = resolve(model or _choice_of(config, run.base_model), config.engine.trust_remote_code)
    if served.name != run.base_model:
        raise InvalidInputError(f"run {run.run_id} trains {run.base_model}, not {served.name}")
    compute_deterministically()
    base, _ = load_base_model(served, config.engine)
    return Replay(
        base,
        ledger,
        SnapshotStore(config.home / "snapshots"),
        run,
        before=before,
        settings=planned_training(base, config.engine),
        from_oldest=from_oldest,
    )


def _choice_of(config: Config, base_model: str) -> str:
    """The setting that serves the model, if one does, such as NAME=FOLDER; else its name."""
    named = [choice for choice in config.models if choice.partition("=")[0] == base_model]
    return named[0] if named else base_model


def _to_the_end(
    replay: Replay,
    progress: Progress | None,
    before_op: Callable[[int], None] = lambda seq_id: None,
) -> None:
    """`before_op` is called with the seq_id of the op that comes next, and at the end with one
    behind all."""
    num_ops = replay.num_repeated + replay.num_remaining
    while replay.num_remaining:
        before_op(replay.next_seq_id)
        replay.advance()
        if progress is not None:
            progress(replay.num_repeated, num_ops)
    before_op(RELEASE_SEQ_ID)


def _is_same(replay: Replay, snapshot: Snapshot) -> bool:
    try:
        kept = replay.restored(snapshot)
    except DamagedSnapshotError:
        return False
    return kept.optimizer.num_steps == replay.state.optimizer.num_steps and all(
        torch.equal(kept.vectors[name].view(torch.int32), vector.detach().view(torch.int32))
        for name, vector in replay.state.vectors.items()
        if name != "gradient"  # an op that failed in between may have ended its window
    )
