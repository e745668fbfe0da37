"""Reinforcement learning, from checkpoints after which rewards differ within a group."""

from __future__ import annotations

import json

from conformance.cookbook import Cookbook, Finished, Unexpected, tail_of
from conformance.programs.program import Told

LARGEST_KL = 1e-8
"""Half the mean square of what sampler and trainer differ by on one policy: 1e-4 nats a token."""
BUILDER = "tinker_cookbook.recipes.math_rl.math_env:Gsm8kDatasetBuilder"


def rl_loop(cookbook: Cookbook) -> Told:
    return _rewarded(
        _rl_loop(cookbook, "rl_loop", loss_fn="gspo"), "reward/total", "grad_norm:mean"
    )


def rl_loop_by_default(cookbook: Cookbook) -> Told:
    """The default loss has no public definition: the refusal says so, and what there is instead."""
    done = _rl_loop(cookbook, "rl_loop_by_default")
    refusal = "loss_fn 'stable_reinforce' is not supported; supported: "
    if done.returncode == 0 or refusal not in done.log:
        raise Unexpected(f"stable_reinforce was not refused by name:\n{tail_of(done.log)}")
    instead = done.log.rpartition(refusal)[2].partition(" for self.")[0]
    return Told(None, f"refused by name; supported: {instead}")


def _rl_loop(cookbook: Cookbook, name: str, **options: object) -> Finished:
    # The recipe starts from what its log folder names as the last checkpoint.
    cookbook.logs(name).mkdir(parents=True)
    start = {"name": "start", "batch": 0, "state_path": cookbook.checkpoint_of("sl_loop")}
    (cookbook.logs(name) / "checkpoints.jsonl").write_text(json.dumps(start) + "\n")
    return cookbook.attempt(
        name,
        "rl_loop",
        batch_size=4,
        group_size=4,
        max_tokens=16,
        max_steps=4,
        save_every=2,
        **options,
    )


def rl_basic(cookbook: Cookbook) -> Told:
    done = cookbook.recipe(
        "rl_basic",
        "rl_basic",
        load_checkpoint_path=cookbook.checkpoint_of("sl_loop"),
        dataset_builder=BUILDER,
        dataset_builder__model_name_for_tokenizer=cookbook.model,
        dataset_builder__renderer_name="role_colon",
        dataset_builder__batch_size=4,
        dataset_builder__group_size=4,
        max_tokens=16,
        max_steps=3,
        eval_every=2,
        save_every=2,
    )
    return _on_policy(done)


def math_rl(cookbook: Cookbook) -> Told:
    done = _arithmetic(cookbook, "math_rl", loss_fn="ppo")
    return _on_policy(done)


def math_rl_off_policy(cookbook: Cookbook) -> Told:
    done = _arithmetic(cookbook, "math_rl_off_policy", loss_fn="cispo", max_steps_off_policy=2)
    return _rewarded(done, "env/all/reward/total", "optim/kl_sample_train_v2")


def _arithmetic(cookbook: Cookbook, name: str, **options: object) -> Finished:
    return cookbook.recipe(
        name,
        "math_rl.train",
        load_checkpoint_path=cookbook.checkpoint_of("chat_sl"),
        env="arithmetic",
        renderer_name="role_colon",
        groups_per_batch=4,
        group_size=4,
        max_tokens=12,
        max_steps=3,
        eval_every=0,
        save_every=2,
        **options,
    )


def _rewarded(done: Finished, reward: str, of_a_step: str) -> Told:
    """`of_a_step` is a metric that only steps have whose rewards differ within a group."""
    if done.returncode:
        raise Unexpected(f"it ended with {done.returncode}:\n{tail_of(done.log)}")
    rewards, steps = done.metric(reward), done.metric(of_a_step)
    return Told(len(steps), f"reward {rewards[0]:.2f} to {rewards[-1]:.2f}")


def _on_policy(done: Finished) -> Told:
    told = _rewarded(done, "env/all/reward/total", "optim/kl_sample_train_v2")
    apart = max(done.metric("optim/kl_sample_train_v2"))
    if not apart < LARGEST_KL:
        raise Unexpected(f"sampler and trainer differ by a KL of {apart:.1e} on one policy")
    return Told(told.steps, f"{told.result}, KL of sampler and trainer {apart:.0e}")
