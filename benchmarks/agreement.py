"""Sampler and trainer on the same tokens: the largest difference of their log-probabilities.

Answers are drawn at temperature 1 to triage prompts, and each whole sequence is then scored by a
forward pass of a run with the same adapter. Compared are the drawn tokens, as the sampler reported
them while it decoded, and the prompt's, as it scored them while it read it. The base model alone is
a run whose new adapter changes nothing; the other adapter has had a few large steps of training.
`ours` is the largest difference of all, `limit` the figure not to exceed.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from mail_batches import Task, to_op
from rows import row, run, say
from shapes import SHAPES, write_model
from triage_prompts import triage_prompts

LIMITS = {"float32": 1e-4, "bfloat16": 2e-2}
BUILTIN = "built-in"
RANK = 8
LEARNING_RATE = 1e-3


def options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--model", choices=[BUILTIN, *SHAPES], nargs="+", help="shapes are random")
    parser.add_argument("--dtype", choices=[*LIMITS], nargs="+", default=[*LIMITS])
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--mails", type=int, help="16 unless --quick")
    parser.add_argument("--new-tokens", type=int, help="of each; 60 unless --quick")


def measure(options: argparse.Namespace) -> Iterator[dict[str, Any]]:
    from our_engine import make_trainer
    from tinsmith.base_models import BUILTIN_DIRECTORY

    prompts = triage_prompts(options.mails or (3 if options.quick else 16))
    new_tokens = options.new_tokens or (8 if options.quick else 60)
    for name in options.model or ([BUILTIN] if options.quick else [BUILTIN, "qwen3-266m"]):
        with tempfile.TemporaryDirectory() as scratch:
            directory = BUILTIN_DIRECTORY
            if name != BUILTIN:
                directory = write_model(SHAPES[name], Path(scratch), "float32")
            for dtype in options.dtype:
                trainer = make_trainer(directory, dtype, options.device, RANK)
                for what in ("base", "adapter"):
                    if what == "adapter":
                        train(trainer)
                    say(f"  {name} {dtype}, {what}")
                    differences = compared(trainer, prompts, new_tokens, what == "adapter")
                    for tokens, of_tokens in differences.items():
                        yield row(
                            f"{name} {dtype}, {what}, {tokens}",
                            ours=float(of_tokens.max()),
                            unit="nats, largest difference",
                            limit=LIMITS[dtype],
                            mean=float(of_tokens.mean()),
                            num_tokens=len(of_tokens),
                        )


def train(trainer: Any) -> None:
    """Steps large enough that the adapter changes every answer."""
    from our_engine import adam

    vocab = trainer.base.vocab_size
    for batch in Task(vocab, 3, shortest=60, longest=80, num_shared=20).batches():
        trainer.forward_backward(to_op(batch))
        trainer.optim_step(adam(LEARNING_RATE))


def compared(
    trainer: Any, prompts: Sequence[Sequence[int]], new_tokens: int, with_adapter: bool
) -> dict[str, np.ndarray]:
    """Differences of the drawn tokens and of the prompts' tokens, all sequences in a row."""
    from our_engine import drawn, make_sampler, sampled
    from tinsmith.domain.datum import Datum
    from tinsmith.domain.ops import ForwardBackward
    from tinsmith.engine.adapter import load_frozen

    adapter = None
    if with_adapter:
        state = trainer.state.adapter
        adapter = load_frozen(trainer.base, state.layout.lora, state.to_arrays())
    samples = [drawn(prompt, new_tokens, seed) for seed, prompt in enumerate(prompts)]
    results = sampled(make_sampler(trainer.base), samples, adapter)
    whole = [
        np.concatenate([sample.prompt, result.sequences[0].tokens])
        for sample, result in zip(samples, results, strict=True)
    ]
    data = tuple(
        Datum(tokens[:-1], {"target_tokens": tokens[1:].astype(np.int64)}) for tokens in whole
    )
    forward = ForwardBackward(data, "cross_entropy", forward_only=True)
    scored = trainer.forward_backward(forward).logprobs
    differences: dict[str, list[np.ndarray]] = {"drawn tokens": [], "prompt tokens": []}
    for result, logprobs in zip(results, scored, strict=True):
        of_drawn = result.sequences[0].logprobs
        assert result.prompt_logprobs is not None
        start = len(logprobs) - len(of_drawn)
        differences["drawn tokens"].append(np.abs(of_drawn - logprobs[start:]))
        differences["prompt tokens"].append(np.abs(result.prompt_logprobs[1:] - logprobs[:start]))
    return {name: np.concatenate(parts) for name, parts in differences.items()}


if __name__ == "__main__":
    run("agreement", __doc__, options, measure)
