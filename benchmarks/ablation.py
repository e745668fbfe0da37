"""What each thing that the engine does is worth: the mail task with one of them switched off.

`ours` is the engine with everything on, `theirs` the same with that one switch off, both in the
same run. The ratio is what the switch is worth on this task and shape.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import precision
from mail_batches import Task
from rows import row, run, say
from shapes import SHAPES, write_model
from sides import Side, Spec, in_turn

WARM_UP = 1
SWITCHES: dict[str, dict[str, Any]] = {
    "shared prefix": {"share_prefixes": False},
    # With a budget of one token every sequence goes alone, so nothing can be shared either.
    "packing (and shared prefix)": {"token_budget": 1},
    "selective logits": {"zero_weight_logprobs": True},
    "own decoder layers": {"own_layers": False},
    "last layer where needed": {"select_last_layer": False},
}


def options(parser: argparse.ArgumentParser) -> None:
    precision.add_options(parser)
    parser.add_argument("--shape", choices=[*SHAPES], help="random weights of this")
    parser.add_argument("--steps", type=int, help="measured after one to warm up")


def measure(options: argparse.Namespace) -> Iterator[dict[str, Any]]:
    dtype, why = precision.choose(options.dtype, options.device)
    say(f"{dtype}: {why}")
    name = options.shape or ("small" if options.quick else "qwen3-266m")
    steps = WARM_UP + (options.steps or (2 if options.quick else 6))
    shape = SHAPES[name]
    with tempfile.TemporaryDirectory() as folder:
        directory = str(write_model(shape, Path(folder), dtype))

        def side(what: str, settings: dict[str, Any]) -> Side:
            spec = Spec(
                kind="ours",
                directory=directory,
                shape=shape,
                task=Task(shape.vocab),
                dtype=dtype,
                device=options.device,
                settings={"zero_weight_logprobs": False, **settings},
            )
            return Side(what, spec)

        with side("everything on", {}) as full:
            for what, switch in SWITCHES.items():
                before = len(full.steps)
                with side(f"without {what}", switch) as without:
                    in_turn([full, without], steps)
                yield row(
                    f"{name} {dtype}, {what}",
                    ours=full.tokens_per_s(before + WARM_UP),
                    theirs=without.tokens_per_s(WARM_UP),
                    unit="real tokens/s",
                    median=full.median_tokens_per_s(before + WARM_UP),
                    median_theirs=without.median_tokens_per_s(WARM_UP),
                    peak_gb=full.peak_bytes / 1e9,
                    peak_gb_without=without.peak_bytes / 1e9,
                )


if __name__ == "__main__":
    run("ablation", __doc__, options, measure)
