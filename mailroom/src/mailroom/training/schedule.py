"""Which examples and which learning rate a step gets: pure functions of the plan and the step."""

from __future__ import annotations

import math

import numpy as np

from mailroom.training.plan import Plan


def num_steps(plan: Plan, num_examples: int) -> int:
    return plan.num_epochs * steps_per_epoch(plan, num_examples)


def steps_per_epoch(plan: Plan, num_examples: int) -> int:
    return math.ceil(num_examples / plan.batch_size)


def batch_of(plan: Plan, num_examples: int, step: int) -> list[int]:
    """Places of the step's examples; each epoch visits every example once, in an order of its own.

    Depends on the seed and the step alone, so a resumed run sees what an undisturbed one would.

    Args:
        step: counted from 0.
    """
    epoch, place = divmod(step, steps_per_epoch(plan, num_examples))
    order = np.random.default_rng([plan.seed, epoch]).permutation(num_examples)
    return order[place * plan.batch_size : (place + 1) * plan.batch_size].tolist()


def learning_rate_of(plan: Plan, total_steps: int, step: int) -> float:
    """The learning rate of a step, counted from 0.

    Warm-up rises linearly and reaches the peak at step `warmup_steps`; `linear` then falls so that
    the step after the last would get 0.
    """
    warmup_steps = min(plan.warmup_steps, total_steps - 1)
    if step < warmup_steps:
        return plan.learning_rate * (step + 1) / (warmup_steps + 1)
    if plan.schedule == "constant":
        return plan.learning_rate
    return plan.learning_rate * (total_steps - step) / (total_steps - warmup_steps)
