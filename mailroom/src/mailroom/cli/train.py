"""mailroom train: the training loop on the Tinker SDK."""

from __future__ import annotations

from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import click

from mailroom.cli.options import base_model_option, corpus_option, home_option, json_option
from mailroom.cli.terminal import terminal


@click.command("train")
@corpus_option
@base_model_option
@click.option(
    "--preset",
    type=click.Choice(["reference", "tiny"]),
    help="Settings to start from: `reference` is the write-up's; `tiny` differs only in what so "
    "small a model needs, and is the default for the built-in base model.",
)
@click.option("--examples", type=click.IntRange(0), metavar="N", help="The first N; 0 takes all.")
@click.option("--rank", type=click.IntRange(1), help="Inner width of the adapter.")
@click.option("--train-output-layer", is_flag=True, default=None, help="Adapt it as well.")
@click.option("--batch-size", type=click.IntRange(1), help="Examples of one step.")
@click.option("--learning-rate", type=click.FloatRange(0, min_open=True), help="Its peak.")
@click.option("--schedule", type=click.Choice(["constant", "linear"]), help="linear falls to 0.")
@click.option("--warmup-steps", type=click.IntRange(0), help="Steps up to the peak.")
@click.option("--epochs", type=click.IntRange(1), help="Times through the examples.")
@click.option("--seed", type=click.IntRange(0), help="Of initial weights and order.")
@click.option("--clip", type=click.FloatRange(0), help="Largest gradient norm of a step; 0: none.")
@click.option(
    "--checkpoint-every", default=0, type=click.IntRange(0), metavar="N", help="Steps; 0: an epoch."
)
@click.option(
    "--run", metavar="DIR", help="Where the run keeps its state (default: DIR/runs/ of the corpus)."
)
@click.option("--fresh", is_flag=True, help="Start over instead of going on.")
@click.option("--sync", is_flag=True, help="Wait for each step: the same numbers, slower.")
@home_option
@json_option
def command(
    corpus: str,
    base_model: str | None,
    preset: str | None,
    run: str | None,
    fresh: bool,
    sync: bool,
    checkpoint_every: int,
    home: str | None,
    as_json: bool,
    **settings: Any,
) -> None:
    """Train an adapter on a corpus. The same command goes on after an interruption.

    Prints the tinker:// path of the trained model.
    """
    from mailroom.cli.terminal import Terminal
    from mailroom.config import absolute_choice, home_directory, served_name
    from mailroom.corpus.corpus import Corpus
    from mailroom.service.address import Address
    from mailroom.service.connect import open_service
    from mailroom.service.remembered import remember
    from mailroom.training.plan import PRESETS, preset_for

    def go(screen: Terminal) -> None:
        loaded = Corpus.load(corpus)
        chosen = preset or preset_for(base_model)
        wanted = base_model or PRESETS[chosen].base_model
        plan = replace(
            PRESETS[chosen], base_model=served_name(wanted), **_named_as_in_plan(settings)
        )
        if settings["examples"] is None and len(loaded.train) > plan.num_examples > 0:
            screen.say(
                f"{plan.num_examples} of {len(loaded.train)} examples, as preset {chosen} says; "
                "--examples 0 takes all"
            )
        place = home_directory(home)
        with open_service(place, wanted, screen.say) as service:
            from mailroom.training.run import train
            from mailroom.training.run_directory import RunDirectory, StepMetrics

            digest = plan.digest(loaded.digest, service.identity)
            directory = RunDirectory(Path(run) if run else Path(corpus) / "runs" / digest)
            with screen.progress("step") as progress:

                def on_step(metrics: StepMetrics, total: int) -> None:
                    progress(metrics.step, total, f"loss {metrics.loss:.4f}")

                trained = train(
                    service,
                    loaded.train,
                    loaded.taxonomy,
                    plan,
                    directory,
                    corpus=loaded.source,
                    corpus_digest=loaded.digest,
                    base_model=absolute_choice(wanted),
                    held_out=loaded.held_out(plan.num_examples),
                    checkpoint_every=checkpoint_every,
                    fresh=fresh,
                    sync=sync,
                    on_step=on_step,
                    say=screen.say,
                )
        # So that the report of a later evaluation finds the loss curve.
        run_id = Address.parse(trained.model).run_id
        remember(place, run_id, run=str(directory.path.resolve()))
        size = f"{trained.adapter_bytes / 1e6:.1f} MB" if trained.adapter_bytes else "?"
        screen.result(
            {**asdict(trained), "run": str(directory.path), "plan": asdict(plan)},
            f"{trained.steps} steps in {trained.seconds:.1f} s, "
            f"loss {trained.first_loss:.4f} -> {trained.last_loss:.4f}, adapter {size}, "
            f"temperature {trained.temperature:.2f}\n"
            f"model  {trained.model}\nstate  {trained.state}",
        )

    with terminal(as_json) as screen:
        go(screen)


def _named_as_in_plan(settings: dict[str, Any]) -> dict[str, Any]:
    """The options that were given, under the plan's names."""
    names = {
        "examples": "num_examples",
        "epochs": "num_epochs",
        "clip": "grad_clip_norm",
        "train_output_layer": "train_unembed",
    }
    return {names.get(name, name): value for name, value in settings.items() if value is not None}
