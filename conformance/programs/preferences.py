"""Learning from what is preferred: pairs of answers, or the probabilities of a teacher."""

from __future__ import annotations

import math

from conformance.cookbook import Cookbook, Unexpected
from conformance.programs.program import Told


def dpo(cookbook: Cookbook) -> Told:
    done = cookbook.recipe(
        "dpo",
        "preference.dpo.train",
        dataset="hhh",
        renderer_name="role_colon",
        batch_size=8,
        max_length=256,
        max_steps=4,
        learning_rate=1e-3,
    )
    losses = done.metric("dpo_loss")
    # At first the policy is the reference model, whichever of the two ways log p is asked for.
    if abs(losses[0] - math.log(2)) > 1e-3:
        raise Unexpected(f"the first loss is {losses[0]}, not ln 2: policy and reference differ")
    if not losses[-1] < losses[0]:
        raise Unexpected(f"the loss went from {losses[0]} to {losses[-1]}")
    return Told(len(losses), f"loss {losses[0]:.4f} (ln 2) to {losses[-1]:.2f}")


def on_policy_distillation(cookbook: Cookbook) -> Told:
    done = cookbook.recipe(
        "on_policy_distillation",
        "distillation.on_policy_distillation",
        teacher_model=cookbook.model,
        load_checkpoint_path=cookbook.checkpoint_of("chat_sl"),
        dataset="tulu3",
        renderer_name="role_colon",
        groups_per_batch=4,
        group_size=4,
        max_tokens=12,
        max_steps=6,
        eval_every=0,
        save_every=4,
        learning_rate=1e-3,
    )
    apart = done.metric("teacher_kl")
    if not apart[-1] < apart[0]:
        raise Unexpected(f"the KL from the teacher went from {apart[0]} to {apart[-1]}")
    return Told(len(apart), f"KL from the teacher {apart[0]:.2f} to {apart[-1]:.2f}")


def self_distillation(cookbook: Cookbook) -> Told:
    """The teacher is the model that has seen the answer. Its likeliest tokens with their
    probabilities become soft targets: two-dimensional ones, of several tokens a position."""
    done = cookbook.recipe(
        "self_distillation",
        "sdft.train",
        renderer_name="role_colon",
        groups_per_batch=4,
        topk=5,
        max_tokens=12,
        max_steps=2,
        eval_every=0,
        lora_rank=8,
    )
    entropies = done.metric("sdft/mean_teacher_entropy")
    if not all(0 < entropy <= math.log(5) for entropy in entropies):
        raise Unexpected(f"the entropies of five tokens each are {entropies}")
    return Told(len(entropies), f"entropy of the teacher's top 5 {entropies[0]:.2f}")
