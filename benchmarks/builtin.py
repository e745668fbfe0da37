"""The built-in model on the built-in corpus: 300 reference steps, beside PEFT in a plain loop.

Ours goes through the SDK and HTTP to a live `tinsmith serve`, with mailroom's own loop and the
preset's plan; its time is wall time, client and server included, up to the saved adapter. PEFT
takes the same batches and learning rates in one process, with no server between. The ratio says
how many times faster ours is. The start of either side is not counted; the server's is told.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from mail_batches import Task
from rows import row, run, say
from server import KEY, Server
from shapes import SHAPES
from sides import Side, Spec, in_turn

PROBED_STEPS = 8


def options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--repeats", type=int, help="of the whole run, both sides in turn")


@dataclass(frozen=True)
class Work:
    """What both sides do."""

    plan: Any
    """mailroom's Plan."""
    sequences: Sequence[Any]
    """WeightedTokens of each example."""
    batches: list[list[int]]
    """Places of each step's examples."""
    learning_rates: list[float]


def measure(options: argparse.Namespace) -> Iterator[dict[str, Any]]:
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        work = mail_work(folder / "corpus", quick=options.quick)
        spec = peft_spec(work, folder / "batches.json")
        spec = replace(spec, threads=fastest_threads(spec))
        ours, theirs = [], []
        with Server() as server:
            for number in range(options.repeats or (1 if options.quick else 3)):
                ours.append(through_the_sdk(server.url, work, folder / f"run-{number}"))
                theirs.append(in_one_process(spec, len(work.batches)))
                say(f"  ours {ours[-1][0]:.2f} s, PEFT {theirs[-1][0]:.2f} s")
            about = {"server_start_s": server.start_s, "peft_threads": spec.threads}
    seconds = [statistics.median(one for one, _ in side) for side in (ours, theirs)]
    yield row(
        f"{len(work.batches)} reference steps of the built-in model",
        ours=seconds[0],
        theirs=seconds[1],
        ratio=seconds[1] / seconds[0],
        unit="s",
        last_loss=ours[-1][1],
        last_loss_theirs=theirs[-1][1],
        **about,
    )


def mail_work(corpus: Path, *, quick: bool) -> Work:
    """The preset's steps on the built-in mails; with `quick` a tenth of them."""
    from mailroom.corpus.build import build
    from mailroom.corpus.corpus import Corpus
    from mailroom.prompt.tokens import encode_example
    from mailroom.taxonomy import Taxonomy
    from mailroom.training.plan import PRESETS
    from mailroom.training.schedule import batch_of, learning_rate_of, num_steps
    from tinsmith.base_models import BUILTIN_DIRECTORY
    from transformers import AutoTokenizer

    plan = PRESETS["tiny"]
    if quick:
        plan = replace(plan, num_examples=plan.num_examples // 10)
    build("builtin", corpus, taxonomy=Taxonomy.load("default"))
    made = Corpus.load(corpus)
    tokenizer = AutoTokenizer.from_pretrained(BUILTIN_DIRECTORY)
    sequences = [
        encode_example(
            example.message, example.completion, tokenizer, made.taxonomy, plan.max_prompt_tokens
        )
        for example in made.train[: plan.num_examples]
    ]
    steps = num_steps(plan, len(sequences))
    return Work(
        plan,
        sequences,
        [batch_of(plan, len(sequences), step) for step in range(steps)],
        [learning_rate_of(plan, steps, step) for step in range(steps)],
    )


def through_the_sdk(url: str, work: Work, folder: Path) -> tuple[float, float]:
    """Seconds from the first request to the saved adapter, and the loss of the last step."""
    import tinker
    from mailroom.prompt.tokens import to_datum
    from mailroom.service.connect import sdk_wait
    from mailroom.training.loop import train_steps
    from mailroom.training.run_directory import RunDirectory, RunState

    data = [to_datum(sequence) for sequence in work.sequences]
    directory = RunDirectory(folder)
    state = RunState(digest="benchmark", plan={}, corpus="builtin")
    directory.save(state)
    service = tinker.ServiceClient(base_url=url, api_key=KEY)
    started = time.perf_counter()
    client = service.create_lora_training_client(
        work.plan.base_model, rank=work.plan.rank, seed=work.plan.seed, train_unembed=False
    ).result()
    train_steps(
        client,
        data,
        work.plan,
        directory,
        state,
        checkpoint_every=len(work.batches),
        metadata={},
        wait=sdk_wait,
    )
    client.save_weights_for_sampler("final").result()
    seconds = time.perf_counter() - started
    service.close("success").result()
    return seconds, directory.metrics()[-1].loss


def peft_spec(work: Work, data: Path) -> Spec:
    from tinsmith.base_models import BUILTIN_DIRECTORY

    data.write_text(
        json.dumps(
            [
                [
                    (work.sequences[place].tokens, work.sequences[place].num_weighted)
                    for place in batch
                ]
                for batch in work.batches
            ]
        )
    )
    return Spec(
        kind="peft",
        directory=str(BUILTIN_DIRECTORY),
        shape=SHAPES["negligible"],  # not looked at: nothing is drawn and no rate measured
        task=Task(0, data=str(data)),
        dtype="float32",
        rank=work.plan.rank,
        settings={"learning_rates": work.learning_rates},
    )


def fastest_threads(spec: Spec) -> int:
    """One thread or torch's own choice, whichever is faster here."""
    seconds = {}
    for threads in (1, 0):
        with Side(f"PEFT, threads {threads or 'all'}", replace(spec, threads=threads)) as side:
            in_turn([side], PROBED_STEPS)
            seconds[threads] = statistics.median(step["seconds"] for step in side.steps[2:])
    return min(seconds, key=seconds.__getitem__)


def in_one_process(spec: Spec, steps: int) -> tuple[float, float]:
    """Seconds of the steps alone, and the loss of the last one."""
    with Side("PEFT", spec) as side:
        for _ in range(steps):
            side.step()
    return sum(step["seconds"] for step in side.steps), side.steps[-1]["loss"]


if __name__ == "__main__":
    run("builtin", __doc__, options, measure)
