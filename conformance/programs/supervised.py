"""Supervised recipes: the flat loop, the configured one, and chats from a file."""

from __future__ import annotations

from conformance import datasets
from conformance.cookbook import Cookbook, Finished, Unexpected
from conformance.programs.program import Told

BUILDER = "tinker_cookbook.recipes.chat_sl.chat_datasets:NoRobotsBuilder"


def sl_loop(cookbook: Cookbook) -> Told:
    done = cookbook.recipe(
        "sl_loop",
        "sl_loop",
        batch_size=8,
        max_steps=32,
        save_every=16,
        learning_rate=2e-3,
        lora_rank=8,
        max_length=512,
    )
    return _learned(cookbook, done)


def sl_basic(cookbook: Cookbook) -> Told:
    done = cookbook.recipe(
        "sl_basic",
        "sl_basic",
        dataset_builder=BUILDER,
        dataset_builder__common_config__model_name_for_tokenizer=cookbook.model,
        dataset_builder__common_config__renderer_name="role_colon",
        dataset_builder__common_config__max_length=512,
        dataset_builder__common_config__batch_size=8,
        max_steps=8,
        eval_every=4,
        save_every=4,
        learning_rate=2e-3,
        lora_rank=8,
    )
    held_out = done.metric("test/nll")
    told = _learned(cookbook, done)
    if not held_out[-1] < held_out[0]:
        raise Unexpected(f"the loss on held-out chats went from {held_out[0]} to {held_out[-1]}")
    return Told(told.steps, f"{told.result}, held out {held_out[0]:.2f} to {held_out[-1]:.2f}")


def chat_sl(cookbook: Cookbook) -> Told:
    done = cookbook.recipe(
        "chat_sl",
        "chat_sl.train",
        dataset=datasets.SUMS,
        renderer_name="role_colon",
        batch_size=8,
        max_length=256,
        save_every=8,
        eval_every=0,
        learning_rate=2e-3,
        lora_rank=8,
    )
    return _learned(cookbook, done)


def _learned(cookbook: Cookbook, done: Finished) -> Told:
    cookbook.checkpoint_of(done.directory.name)
    losses = done.metric("train_mean_nll")
    if not losses[-1] < losses[0]:
        raise Unexpected(f"the loss went from {losses[0]} to {losses[-1]}")
    return Told(len(losses), f"loss {losses[0]:.2f} to {losses[-1]:.2f}")
