"""Checkpoint utilities: runs that are killed and go on, and copies."""

from __future__ import annotations

import re

from conformance import datasets
from conformance.cookbook import Cookbook, Unexpected, rows_of, tail_of
from conformance.programs.program import Told

LOSS = "train_mean_nll"
Losses = dict[int, float]


def sl_loop_resumed(cookbook: Cookbook) -> Told:
    """The steps that are made twice have the same losses, to the last bit: adapter and optimizer
    are back where they were."""
    before, after = _killed_and_resumed(
        cookbook,
        "sl_loop_resumed",
        "sl_loop",
        batch_size=4,
        max_steps=40,
        save_every=4,
        learning_rate=2e-3,
        max_length=512,
    )
    twice = sorted(before.keys() & after.keys())
    if not twice or any(before[step] != after[step] for step in twice):
        raise Unexpected(f"the losses of steps {twice} differ: {before} before, {after} after")
    told = _told(before, after)
    return Told(told.steps, f"{told.result}; {len(twice)} repeated steps equal")


def rolling_resumed(cookbook: Cookbook) -> Told:
    """This recipe names a checkpoint by the last step that is in it, not by the next one, so that
    step is made twice by design, and losses differ."""
    before, after = _killed_and_resumed(
        cookbook,
        "rolling_resumed",
        "chat_sl.train",
        dataset=datasets.SUMS,
        renderer_name="role_colon",
        behavior_if_log_dir_exists="resume",
        batch_size=4,
        max_steps=28,
        save_every=0,
        rolling_save_every=4,
        eval_every=0,
        learning_rate=2e-3,
    )
    return _told(before, after)


def _killed_and_resumed(
    cookbook: Cookbook, name: str, module: str, **options: object
) -> tuple[Losses, Losses]:
    """Kill a recipe two steps behind a checkpoint, and start it again with the same command.

    Returns:
        the losses by step before and after.
    """
    logs = cookbook.logs(name)

    def losses() -> Losses:
        rows = rows_of(logs / "metrics.jsonl")
        return {row["step"]: row[LOSS] for row in rows if LOSS in row}

    def is_enough() -> bool:
        saved = rows_of(logs / "checkpoints.jsonl")
        return bool(saved) and max(losses(), default=0) >= saved[-1]["batch"] + 1

    cookbook.interrupted(name, module, is_enough, **options)
    saved, before = rows_of(logs / "checkpoints.jsonl")[-1]["batch"], losses()
    (logs / "metrics.jsonl").unlink()
    done = cookbook.recipe(name, module, **options)
    cookbook.checkpoint_of(name)
    after = losses()
    if min(after) != saved:
        raise Unexpected(f"it went on at step {min(after)}, not at {saved}:\n{tail_of(done.log)}")
    return before, after


def _told(before: Losses, after: Losses) -> Told:
    steps = len(before.keys() | after.keys())
    return Told(steps, f"killed after step {max(before)}, went on at {min(after)}")


def copy_checkpoint(cookbook: Cookbook) -> Told:
    done = cookbook.script(
        "copy_checkpoint",
        "tinker_cookbook.scripts.copy_checkpoint",
        "--source-path",
        cookbook.checkpoint_of("sl_loop"),
        "--output-kind",
        "training",
    )
    found = re.search(r"training_path: (tinker://\S+/weights/final)", done.log)
    if not found:
        raise Unexpected(f"it names no copy:\n{tail_of(done.log)}")
    return Told(None, "a training checkpoint of the same name in a new run")
