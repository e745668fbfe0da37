"""16 clients at once, 8 adapters, random lengths: the built-in model through the SDK and HTTP.

Each client is a thread that sends its requests one after the other; a request has 20 to 200 prompt
tokens, one of the adapters, and 16 to 64 tokens to sample, greedily. Given a Python that has
skyrl-tx (`--skyrl`, see skyrl_server.py), the same requests go to its JAX server in turn with ours.
The first round is what a server does with shapes that it has not seen; then the best round counts.

Then one client samples a single token, over and over, alone and while a training run sends large
batches to the same base model. `limit` is the figure to reach.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from rows import row, run, say
from server import KEY, Server
from skyrl_server import SkyrlServer
from triage_prompts import triage_prompts

RANK = 8
"""As in sdk_clients."""
VOCAB = 3072
"""Of the built-in model."""
LATENCY_LIMIT_MS = 150.0
AT_MOST_S, AT_LEAST = 60.0, 10
"""How long, and how often nevertheless, a single token is sampled."""
TRAINED_AT_ONCE = 32


def options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--skyrl", type=Path, help="a Python that has skyrl-tx, to compare with")
    parser.add_argument("--clients", type=int, help="16 unless --quick")
    parser.add_argument("--adapters", type=int, help="8 unless --quick")
    parser.add_argument("--requests", type=int, help="of a client in a round; 8 unless --quick")
    parser.add_argument("--rounds", type=int, help="after the first; 3 unless --quick")
    parser.add_argument("--samples", type=int, help="of one token, at most; 200 unless --quick")


def measure(options: argparse.Namespace) -> Iterator[dict[str, Any]]:
    with Server() as server:
        yield from rows_of_rounds(server, options)
        yield from rows_of_latency(server, options)


def rows_of_rounds(server: Server, options: argparse.Namespace) -> Iterator[dict[str, Any]]:
    from tinsmith.base_models import BUILTIN_DIRECTORY, BUILTIN_NAME

    work = {
        "work": "sample",
        "vocab": VOCAB,
        "adapters": options.adapters or (2 if options.quick else 8),
        "clients": options.clients or (4 if options.quick else 16),
        "requests": options.requests or (2 if options.quick else 8),
        "seed": 0,
    }
    rounds = 1 + (options.rounds or (1 if options.quick else 3))
    speeds: dict[str, list[float]] = {}
    with ExitStack() as stack:
        ends = {"ours": Clients(sys.executable, server.url, BUILTIN_NAME, **work)}
        if options.skyrl:
            size = {"adapters": work["adapters"], "rank": RANK, "clients": work["clients"]}
            skyrl = stack.enter_context(SkyrlServer(options.skyrl, BUILTIN_DIRECTORY, **size))
            ends["skyrl-tx"] = Clients(str(options.skyrl), skyrl.url, skyrl.base_model, **work)
        for clients in ends.values():
            stack.enter_context(clients)
            clients.answer()
        for number in range(rounds):
            for name, clients in ends.items():
                done = clients.ask()
                speeds.setdefault(name, []).append(done["tokens"] / done["seconds"])
                say(f"  {name}, round {number}: {speeds[name][-1]:.0f} tokens/s")
    where = f"{work['clients']} clients, {work['adapters']} adapters"
    theirs = speeds.get("skyrl-tx")
    for what, pick in (
        ("first round", lambda told: told[0]),
        ("later", lambda told: max(told[1:])),
    ):
        yield row(
            f"{where}, {what}" + (", beside skyrl-tx" if theirs else ""),
            ours=pick(speeds["ours"]),
            theirs=pick(theirs) if theirs else None,
            unit="sampled tokens/s",
            rounds=speeds,
        )


def rows_of_latency(server: Server, options: argparse.Namespace) -> Iterator[dict[str, Any]]:
    import tinker
    from tinsmith.base_models import BUILTIN_NAME

    count = options.samples or (10 if options.quick else 200)
    prompts = [tinker.ModelInput.from_ints(ids) for ids in triage_prompts(count)]
    service = tinker.ServiceClient(base_url=server.url, api_key=KEY)
    client = service.create_sampling_client(base_model=BUILTIN_NAME).result()
    alone = latencies(client, prompts)
    work = {"work": "train", "vocab": VOCAB, "batch_size": TRAINED_AT_ONCE}
    with Clients(sys.executable, server.url, BUILTIN_NAME, **work) as training:
        training.answer()  # once it is under way
        started = time.perf_counter()
        meanwhile = latencies(client, prompts)
        seconds = time.perf_counter() - started
        steps = training.end()["steps"]
    service.close("success").result()
    for what, times in (("alone", alone), ("while training runs", meanwhile)):
        percentiles = statistics.quantiles(times, n=20)
        for name, value in (("p50", percentiles[9]), ("p95", percentiles[18])):
            yield row(
                f"a sample of one token {what}, {name}",
                ours=1e3 * value,
                unit="ms",
                limit=LATENCY_LIMIT_MS,
                num_samples=len(times),
                training_steps=steps,
                training_s=seconds,
            )


def latencies(client: Any, prompts: list[Any]) -> list[float]:
    """Seconds of one token for each prompt, after a few to warm up; no longer than a minute."""
    import tinker

    only_one = tinker.SamplingParams(max_tokens=1, temperature=0.0, stop=[])
    for prompt in prompts[:3]:
        client.sample(prompt, 1, only_one).result()
    times = []
    for prompt in prompts:
        if sum(times) > AT_MOST_S and len(times) >= AT_LEAST:
            break
        started = time.perf_counter()
        client.sample(prompt, 1, only_one).result()
        times.append(time.perf_counter() - started)
    return times


class Clients:
    """sdk_clients.py in a process of its own, for the length of a `with` block."""

    def __init__(self, python: str, url: str, base_model: str, **work: Any) -> None:
        told = {"url": url, "base_model": base_model, **work}
        script = str(Path(__file__).with_name("sdk_clients.py"))
        self._child = subprocess.Popen(
            [python, script, json.dumps(told)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def ask(self) -> dict[str, Any]:
        """Another round."""
        assert self._child.stdin is not None
        self._child.stdin.write("again\n")
        self._child.stdin.flush()
        return self.answer()

    def answer(self) -> dict[str, Any]:
        """The next one; the SDK may print lines of its own."""
        assert self._child.stdout is not None
        for line in self._child.stdout:
            if line.startswith("{"):
                return json.loads(line)
        raise SystemExit(f"the clients' process has ended ({self._child.wait()})")

    def end(self) -> dict[str, Any]:
        """Nothing more is asked: its last answer."""
        assert self._child.stdin is not None
        self._child.stdin.close()
        return self.answer()

    def __enter__(self) -> Clients:
        return self

    def __exit__(self, *_: object) -> None:
        assert self._child.stdin is not None
        self._child.stdin.close()
        self._child.wait()


if __name__ == "__main__":
    run("clients", __doc__, options, measure)
