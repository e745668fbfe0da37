"""One tenant on the mail task, beside TRL + PEFT and a plain PEFT loop, and beside the limit.

Batches of 4 mails of 180 to 300 tokens, of which 40 % are the same instruction and 60 tokens carry
weight; LoRA rank 32 on all linear layers; random weights; the optimizer's step is part of a step.
Real tokens count a shared prefix for every example and padding for none. The limit is what the
operations of operations.py take at the rate that matrix products reach in our own process.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import precision
from mail_batches import Task, num_tokens
from operations import of_batch
from rows import row, run, say
from shapes import SHAPES, write_model
from sides import Side, Spec, in_turn

WARM_UP = 2
RANK = 32
PACKED_TOKENS = 16_384
"""Tokens of a GPU's micro-batch."""


def options(parser: argparse.ArgumentParser) -> None:
    precision.add_options(parser)
    parser.add_argument("--shape", choices=[*SHAPES], nargs="+", help="random weights of these")
    parser.add_argument("--steps", type=int, help="measured after two to warm up")
    parser.add_argument("--threads", type=int, default=0, help="of each side; 0: torch's choice")
    parser.add_argument("--alone", action="store_true", help="without the peers")


def measure(options: argparse.Namespace) -> Iterator[dict[str, Any]]:
    dtype, why = precision.choose(options.dtype, options.device)
    say(f"{dtype}: {why}")
    usual = ["qwen3-4b"] if options.device == "cuda" else ["qwen3-266m", "qwen3-0.6b"]
    for name in options.shape or (["small"] if options.quick else usual):
        with tempfile.TemporaryDirectory() as folder:
            say(f"{name}: writing random weights")
            shape = SHAPES[name]
            spec = Spec(
                kind="ours",
                directory=str(write_model(shape, Path(folder), dtype)),
                shape=shape,
                task=task_for(options.device, shape.vocab),
                dtype=dtype,
                device=options.device,
                rank=RANK,
                threads=options.threads,
                settings={"zero_weight_logprobs": False, **budget_for(options.device)},
            )
            steps = WARM_UP + (options.steps or (2 if options.quick else 6))
            yield from rows_of(name, spec, steps, why, alone=options.alone)


def task_for(device: str, vocab: int) -> Task:
    """A GPU gets as many mails at once as fill the micro-batch that the figure is defined for."""
    task = Task(vocab)
    if device == "cpu":
        return task
    average = (task.shortest + task.longest) // 2
    return replace(task, batch_size=PACKED_TOKENS // average)


def budget_for(device: str) -> dict[str, int]:
    """Room for all of those mails in one micro-batch; a CPU keeps the engine's own budget."""
    return {} if device == "cpu" else {"token_budget": 2 * PACKED_TOKENS}


def rows_of(
    name: str, spec: Spec, steps: int, why: str, *, alone: bool
) -> Iterator[dict[str, Any]]:
    trl = None if alone else fastest_trl(spec)
    with Side("ours", spec) as ours:
        if trl is None:
            in_turn([ours], steps, with_rate=ours)
        else:
            with trl:
                in_turn([ours, trl], steps, with_rate=ours)
    every = replace(spec, settings={**spec.settings, "zero_weight_logprobs": True})
    with Side("ours, every logprob", every) as ours_every:
        in_turn([ours_every], steps)
    peers = [trl] if trl else []
    if not alone:
        peft = Side("PEFT, padded loop", replace(spec, kind="peft", settings={}))
        with peft:
            in_turn([peft], steps)
        peers.append(peft)
        same_loss([ours, ours_every, *peers])
    limit = tokens_per_s_at(max(ours.rates), spec)
    about = {
        "dtype": spec.dtype,
        "why_dtype": why,
        "device": spec.device,
        "product_rate": max(ours.rates),
        "batch_size": spec.task.batch_size,
    }
    where = f"{name} {spec.dtype}"
    for side, what in ((ours, ""), (ours_every, ", logprobs of every token")):
        speed = side.tokens_per_s(WARM_UP)
        if not peers:
            yield row(
                f"{where}{what}",
                ours=speed,
                unit="real tokens/s",
                limit=limit,
                median=side.median_tokens_per_s(WARM_UP),
                **about,
            )
        for peer in peers:
            yield row(
                f"{where}{what}, beside {peer.name}",
                ours=speed,
                theirs=peer.tokens_per_s(WARM_UP),
                unit="real tokens/s",
                limit=limit,
                median=side.median_tokens_per_s(WARM_UP),
                median_theirs=peer.median_tokens_per_s(WARM_UP),
                **about,
            )
    for peer in peers:
        yield row(
            f"{where}, peak memory beside {peer.name}",
            ours=ours.peak_bytes / 1e9,
            theirs=peer.peak_bytes / 1e9,
            unit="GB",
            **about,
        )


def fastest_trl(spec: Spec) -> Side:
    """SFTTrainer with the settings that are fastest here, warmed up no further than the rest."""
    autocasts = [False, True] if spec.dtype == "bfloat16" else [False]
    choices = [
        {"padding_free": padding_free, "autocast": autocast}
        for padding_free in (True, False)
        for autocast in autocasts
    ]
    seconds = {}
    for index, settings in enumerate(choices):
        with Side(trl_name(settings), replace(spec, kind="trl", settings=settings)) as side:
            in_turn([side], 2)
            seconds[index] = side.steps[-1]["seconds"]
    best = choices[min(seconds, key=seconds.__getitem__)]
    return Side(trl_name(best), replace(spec, kind="trl", settings=best))


def trl_name(settings: dict[str, bool]) -> str:
    words = ["padding-free" if settings["padding_free"] else "padded"]
    return f"TRL ({', '.join(words + ['autocast'] * settings['autocast'])})"


def same_loss(sides: list[Side]) -> None:
    """All sides start from the same weights, and a new adapter changes nothing: a first loss that
    differs means that somebody computes something else."""
    losses = {side.name: side.steps[0]["loss"] for side in sides}
    if max(losses.values()) > 1.01 * min(losses.values()):
        raise SystemExit(f"the sides do not train on the same thing; first losses: {losses}")


def tokens_per_s_at(rate: float, spec: Spec) -> float:
    """Real tokens a second if every operation ran at the product rate."""
    batches = spec.task.batches()
    operations = sum(of_batch(spec.shape, batch, spec.rank).total for batch in batches)
    return rate * sum(map(num_tokens, batches)) / operations


if __name__ == "__main__":
    run("training", __doc__, options, measure)
