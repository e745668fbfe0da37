"""300 mails through the triage prompt, 60 new tokens each, greedy, beside transformers' generate.

Our sampler has all mails at once; generate has its best batch size and takes so many of the same
mails as `--theirs-mails` says, which costs it nothing: its rate per mail is the same for any number
of full batches. Same random weights on both sides; generate is measured in the other precision too.
Every answer has exactly 60 tokens. On a GPU the limit is what it takes to read weights, keys and
values once for each token of an answer, at the read rate measured in our process.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from statistics import fmean
from typing import Any

import precision
from mail_batches import Task
from reading import step_bytes
from rows import row, run, say
from shapes import SHAPES, write_model
from sides import Side, Spec
from triage_prompts import triage_prompts

NEW_TOKENS = 60
OTHER = {"bfloat16": "float32", "float32": "bfloat16"}


def options(parser: argparse.ArgumentParser) -> None:
    precision.add_options(parser)
    parser.add_argument("--shape", choices=[*SHAPES], nargs="+", help="random weights of these")
    parser.add_argument("--mails", type=int, help="for ours; 300, on a GPU 256, unless --quick")
    parser.add_argument("--theirs-mails", type=int, help="for generate, at least; 32 on a CPU")
    parser.add_argument("--batch-sizes", type=int, nargs="+", help="generate has the best of these")
    parser.add_argument("--new-tokens", type=int, help=f"{NEW_TOKENS} unless --quick")


def measure(options: argparse.Namespace) -> Iterator[dict[str, Any]]:
    dtype, why = precision.choose(options.dtype, options.device)
    say(f"{dtype}: {why}")
    is_gpu = options.device == "cuda"
    usual = ["qwen3-4b"] if is_gpu else ["qwen3-266m", "qwen3-0.6b"]
    mails = options.mails or (12 if options.quick else 256 if is_gpu else 300)
    theirs = min(mails, options.theirs_mails or (4 if options.quick else 256 if is_gpu else 32))
    sizes = options.batch_sizes or ([64, 128, 256] if is_gpu else [8, 16, 32])
    with tempfile.TemporaryDirectory() as scratch:
        prompts = triage_prompts(mails)
        file = Path(scratch, "prompts.json")
        file.write_text(json.dumps(prompts))
        for name in options.shape or (["small"] if options.quick else usual):
            say(f"{name}: writing random weights")
            spec = Spec(
                kind="sampler",
                directory=str(write_model(SHAPES[name], Path(scratch, name), dtype)),
                shape=SHAPES[name],
                task=Task(0),  # not looked at: there is nothing to train
                dtype=dtype,
                device=options.device,
                settings={
                    "prompts": str(file),
                    "new_tokens": options.new_tokens or (8 if options.quick else NEW_TOKENS),
                    "batch_sizes": [size for size in sizes if size <= theirs] or [theirs],
                    "mails": theirs,
                },
            )
            yield from rows_of(name, spec, prompts)


def rows_of(name: str, spec: Spec, prompts: list[list[int]]) -> Iterator[dict[str, Any]]:
    """First one batch of generate in each precision, then ours, then the rest of theirs."""
    dtypes = (spec.dtype, OTHER[spec.dtype])
    peers = {dtype: Side(dtype, replace(spec, kind="generate", dtype=dtype)) for dtype in dtypes}
    with Side("ours", spec) as side, peers[dtypes[0]], peers[dtypes[1]]:
        for peer in peers.values():
            peer.step()
            say(f"  generate in {peer.name}: {rate_of(peer):.3g} mails/s")
        ours = side.step()
        say(f"  ours: {rate_of(side):.3g} mails/s")
        for peer in peers.values():
            while peer.steps[-1]["left"]:
                peer.step()
    answers = {peer.name: answers_of(peer) for peer in (side, *peers.values())}
    reference = answers[dtypes[0]]
    for peer in peers.values():
        about = {
            "dtype": spec.dtype,
            "dtype_theirs": peer.name,
            "device": spec.device,
            "new_tokens": spec.settings["new_tokens"],
            "mails": len(prompts),
            "mails_theirs": len(answers[peer.name]),
            "batch_size_theirs": peer.steps[0]["batch_size"],
            "equal_tokens": equal_share(answers["ours"], answers[peer.name]),
            "equal_tokens_of_theirs": equal_share(answers[peer.name], reference),
            "prefix_hit_share": ours["prefix_hit_tokens"] / sum(map(len, prompts)),
            "read_rate": ours["read_rate"],
        }
        say("  " + ", ".join(f"{key} {value}" for key, value in about.items()))
        yield row(
            f"{name} {spec.dtype}, {len(prompts)} mails, beside generate in {peer.name} "
            f"({about['mails_theirs']} of them, batch {about['batch_size_theirs']:.0f})",
            ours=rate_of(side),
            theirs=rate_of(peer),
            unit="mails/s",
            limit=mails_per_s_at(ours["read_rate"], spec, prompts)
            if spec.device != "cpu"
            else None,
            **about,
        )


def rate_of(side: Side) -> float:
    seconds = sum(step["seconds"] for step in side.steps)
    return sum(len(step["answers"]) for step in side.steps) / seconds


def answers_of(side: Side) -> dict[str, list[int]]:
    """By the number of the mail."""
    return {number: ids for step in side.steps for number, ids in step["answers"].items()}


def equal_share(ours: dict[str, list[int]], theirs: dict[str, list[int]]) -> float | None:
    """Share of tokens that are the same at the same place, in the mails that both have; None
    where they have none in common."""
    both = ours.keys() & theirs.keys()
    pairs = [pair for mail in both for pair in zip(ours[mail], theirs[mail], strict=True)]
    return fmean(one == other for one, other in pairs) if pairs else None


def mails_per_s_at(rate: float, spec: Spec, prompts: list[list[int]]) -> float:
    """If all mails were in one batch and a step took what reading takes."""
    new_tokens = spec.settings["new_tokens"]
    context = fmean(map(len, prompts)) + new_tokens / 2
    seconds = new_tokens * step_bytes(spec.shape, spec.dtype, len(prompts), context) / rate
    return len(prompts) / seconds


if __name__ == "__main__":
    run("sampling", __doc__, options, measure)
