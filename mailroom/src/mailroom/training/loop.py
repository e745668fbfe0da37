"""The supervised loop on the Tinker SDK: submit ahead, read later, and go on after anything.

One step is two requests, `forward_backward` and `optim_step`. The service runs a run's requests in
the order they were sent, so the next steps can be sent before the first has answered: the numbers
are the same, and neither side waits for the other.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import tinker

from mailroom.service.connect import Wait
from mailroom.training.plan import Plan
from mailroom.training.run_directory import RunDirectory, RunState, StepMetrics
from mailroom.training.schedule import batch_of, learning_rate_of, num_steps

STEPS_AHEAD = 4
"""Steps that are with the service at once; enough that it never waits for us."""


@dataclass(frozen=True, slots=True)
class _Submitted:
    """A step that the service has, with what we need to read its answers."""

    step: int
    learning_rate: float
    num_tokens: int
    num_weighted: float
    loss: tinker.APIFuture[tinker.ForwardBackwardOutput]
    update: tinker.APIFuture[tinker.OptimStepResponse]
    save: tinker.APIFuture[tinker.types.SaveWeightsResponse] | None


def train_steps(
    client: tinker.TrainingClient,
    data: Sequence[tinker.Datum],
    plan: Plan,
    directory: RunDirectory,
    state: RunState,
    *,
    checkpoint_every: int,
    metadata: Mapping[str, str],
    wait: Wait,
    steps_ahead: int = STEPS_AHEAD,
    on_step: Callable[[StepMetrics, int], None] = lambda metrics, total: None,
) -> RunState:
    """Train from `state.step` to the end, with a checkpoint every so many steps and at the end.

    Args:
        client: holds the weights and the optimizer of step `state.step`.
        steps_ahead: 1 is the plain version, which waits for each step before it sends the next.
        on_step: is told each step's metrics and the number of steps in all.

    Returns:
        The state after the last step; it is on disk as well.
    """
    total = num_steps(plan, len(data))
    started = time.monotonic() - state.seconds
    submitted: deque[_Submitted] = deque()
    for step in range(state.step, total):
        is_checkpoint = (step + 1) % checkpoint_every == 0 or step + 1 == total
        submitted.append(
            _submit(client, data, plan, step, total, metadata if is_checkpoint else None)
        )
        while len(submitted) >= steps_ahead or (submitted and step + 1 == total):
            done = submitted.popleft()
            metrics = _read(done, wait, started)
            directory.append_metrics(metrics)
            on_step(metrics, total)
            if done.save is not None:
                path = wait(done.save).path
                seconds = time.monotonic() - started
                state = replace(state, step=done.step + 1, checkpoint=path, seconds=seconds)
                directory.save(state)
    return state


def _submit(
    client: tinker.TrainingClient,
    data: Sequence[tinker.Datum],
    plan: Plan,
    step: int,
    total: int,
    checkpoint_metadata: Mapping[str, str] | None,
) -> _Submitted:
    batch = [data[place] for place in batch_of(plan, len(data), step)]
    learning_rate = learning_rate_of(plan, total, step)
    loss = client.forward_backward(batch, loss_fn="cross_entropy")
    update = client.optim_step(
        tinker.AdamParams(
            learning_rate=learning_rate,
            weight_decay=plan.weight_decay,
            grad_clip_norm=plan.grad_clip_norm,
        )
    )
    save = None
    if checkpoint_metadata is not None:
        save = client.save_state(
            checkpoint_name(step + 1), overwrite=True, user_metadata=dict(checkpoint_metadata)
        )
    return _Submitted(
        step=step,
        learning_rate=learning_rate,
        num_tokens=sum(datum.model_input.length for datum in batch),
        num_weighted=sum(weight_of(datum) for datum in batch),
        loss=loss,
        update=update,
        save=save,
    )


def _read(submitted: _Submitted, wait: Wait, started: float) -> StepMetrics:
    summed_loss = wait(submitted.loss).metrics["loss:sum"]
    wait(submitted.update)
    return StepMetrics(
        step=submitted.step + 1,
        loss=summed_loss / submitted.num_weighted,
        learning_rate=submitted.learning_rate,
        num_tokens=submitted.num_tokens,
        num_weighted_tokens=round(submitted.num_weighted),
        seconds=round(time.monotonic() - started, 3),
    )


def checkpoint_name(step: int) -> str:
    """Name of the checkpoint that holds so many steps; sorts in order."""
    return f"step-{step:06d}"


def weight_of(datum: tinker.Datum) -> float:
    """Sum of a datum's token weights: what its summed loss is divided by for the mean."""
    return float(datum.loss_fn_inputs["weights"].to_numpy().sum())
