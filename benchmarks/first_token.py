"""From the call that saves a run's weights to the first token sampled from them.

The built-in model, through the SDK and HTTP to a live server; a step of training between two saves
makes the weights new ones. Both ways there are: `save_weights_and_get_sampling_client`, which saves
under no name, and `save_weights_for_sampler` with a name followed by a sampling client of its path.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable, Iterator
from typing import Any

from mail_batches import Task, to_sdk
from rows import row, run, say
from server import KEY, Server
from triage_prompts import triage_prompts

LIMIT_MS = 300.0
WARM_UP = 2
RANK = 8
VOCAB = 3072
"""Of the built-in model."""


def options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--saves", type=int, help="of each way; 40 unless --quick")


def measure(options: argparse.Namespace) -> Iterator[dict[str, Any]]:
    import tinker
    from tinsmith.base_models import BUILTIN_NAME

    count = WARM_UP + (options.saves or (4 if options.quick else 40))
    prompts = [tinker.ModelInput.from_ints(ids) for ids in triage_prompts(count)]
    (batch,) = Task(VOCAB, 1, shortest=60, longest=80, num_shared=20).batches()
    data, adam = to_sdk(batch), tinker.AdamParams(learning_rate=1e-4)
    only_one = tinker.SamplingParams(max_tokens=1, temperature=0.0, stop=[])
    with Server() as server:
        service = tinker.ServiceClient(base_url=server.url, api_key=KEY)
        client = service.create_lora_training_client(
            BUILTIN_NAME, rank=RANK, seed=0, train_unembed=False
        ).result()
        ways: dict[str, Callable[[int], Any]] = {
            "save_weights_and_get_sampling_client": lambda _: (
                client.save_weights_and_get_sampling_client().result()
            ),
            "save_weights_for_sampler, then a client of its path": lambda number: (
                service.create_sampling_client(
                    model_path=client.save_weights_for_sampler(f"step-{number}").result().path
                ).result()
            ),
        }
        times: dict[str, list[float]] = {way: [] for way in ways}
        for number, prompt in enumerate(prompts):
            for way, sampling_client in ways.items():
                client.forward_backward(data, "cross_entropy").result()
                client.optim_step(adam).result()
                started = time.perf_counter()
                sampling_client(number).sample(prompt, 1, only_one).result()
                times[way].append(time.perf_counter() - started)
        service.close("success").result()
    say(f"  {count - WARM_UP} of each")
    for way, seconds in times.items():
        percentiles = statistics.quantiles(seconds[WARM_UP:], n=20)
        for name, value in (("p50", percentiles[9]), ("p95", percentiles[18])):
            yield row(f"{way}, {name}", ours=1e3 * value, unit="ms", limit=LIMIT_MS)


if __name__ == "__main__":
    run("first_token", __doc__, options, measure)
