"""The programs, in the order in which they run: later ones start from checkpoints of earlier."""

from __future__ import annotations

from conformance.programs import checkpoints, preferences, reinforcement, supervised, weights
from conformance.programs.program import Program

PROGRAMS = (
    Program("recipes/sl_loop.py", "32 steps on chats", supervised.sl_loop),
    Program("recipes/sl_basic.py", "8 steps, held-out loss", supervised.sl_basic),
    Program("recipes/chat_sl/train.py", "16 steps on a file of chats", supervised.chat_sl),
    Program("recipes/preference/dpo/train.py", "pairs of answers", preferences.dpo),
    Program("recipes/rl_loop.py", "gspo, from a checkpoint", reinforcement.rl_loop),
    Program(
        "recipes/rl_loop.py, default loss", "stable_reinforce", reinforcement.rl_loop_by_default
    ),
    Program("recipes/rl_basic.py", "importance_sampling", reinforcement.rl_basic),
    Program("recipes/math_rl/train.py", "arithmetic, ppo, on policy", reinforcement.math_rl),
    Program(
        "recipes/math_rl/train.py, off policy",
        "arithmetic, cispo, two steps behind",
        reinforcement.math_rl_off_policy,
    ),
    Program(
        "recipes/distillation/on_policy_distillation.py",
        "back to the base model",
        preferences.on_policy_distillation,
    ),
    Program("recipes/sdft/train.py", "top-k soft targets", preferences.self_distillation),
    Program("checkpoint_utils.py, sl_loop", "killed and resumed", checkpoints.sl_loop_resumed),
    Program(
        "checkpoint_utils.py, rolling", "chat_sl killed and resumed", checkpoints.rolling_resumed
    ),
    Program("scripts/copy_checkpoint.py", "a training checkpoint", checkpoints.copy_checkpoint),
    Program("weights.download", "encrypted and plain, build_lora_adapter", weights.download),
    Program(
        "scripts/merge_tinker_adapter_to_hf_model.py", "merged, PEFT and server", weights.merge
    ),
    Program("on-policy and off-policy log p", "sampler and trainer", weights.logprobs),
)
