"""The clients' end of clients.py: a program for any Python that has a tinker SDK, told by JSON.

    {"work": "sample", "url", "base_model", "vocab", "adapters", "clients", "requests", "seed"}
        trains a step of each adapter and saves it; then, for each line of standard input, has every
        client thread send its requests one after the other, and answers a line of JSON:
        {"seconds": ..., "tokens": ...}
    {"work": "train", "url", "base_model", "vocab", "batch_size"}
        trains until standard input ends, after a first answer when it is under way

It uses nothing but the SDK, so that servers can be compared that need different versions of it.
"""

from __future__ import annotations

import json
import random
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import tinker

RANK = 8
PROMPT_TOKENS = (20, 200)
MAX_TOKENS = (16, 32, 48, 64)
"""Few values, as one of the servers compiles anew for each."""
FIRST_ID = 8
"""Lower ids may be control tokens."""


def main() -> None:
    told = json.loads(sys.argv[1])
    service = tinker.ServiceClient(base_url=told["url"], api_key="tml-benchmark")
    if told["work"] == "train":
        train(service, told)
        return
    samplers = [saved_adapter(service, told, seed) for seed in range(told["adapters"])]
    answer({"ready": True})
    for number, _ in enumerate(sys.stdin):
        plans = [plan_of(told, number, client) for client in range(told["clients"])]
        started = time.perf_counter()
        with ThreadPoolExecutor(told["clients"]) as pool:
            tokens = sum(pool.map(lambda plan: one_client(samplers, plan), plans))
        answer({"seconds": time.perf_counter() - started, "tokens": tokens})


def saved_adapter(service: Any, told: dict[str, Any], seed: int) -> Any:
    """A sampling client of an adapter that no other seed has."""
    client = new_run(service, told, seed)
    draw = random.Random(seed)
    client.forward_backward([datum(draw, told["vocab"], 32, 8)], "cross_entropy").result()
    client.optim_step(tinker.AdamParams(learning_rate=1e-3)).result()
    path = client.save_weights_for_sampler(f"adapter-{seed}").result().path
    return at_once(service.create_sampling_client(model_path=path))


def new_run(service: Any, told: dict[str, Any], seed: int) -> Any:
    return at_once(
        service.create_lora_training_client(
            told["base_model"], rank=RANK, seed=seed, train_unembed=False
        )
    )


def at_once(made: Any) -> Any:
    """Newer SDKs answer a future where older ones answer the client."""
    return made.result() if hasattr(made, "result") else made


def datum(draw: random.Random, vocab: int, length: int, num_weighted: int) -> tinker.Datum:
    ids = [draw.randrange(FIRST_ID, vocab) for _ in range(length + 1)]
    weights = [0.0] * (length - num_weighted) + [1.0] * num_weighted
    return tinker.Datum(
        model_input=tinker.ModelInput.from_ints(ids[:-1]),
        loss_fn_inputs={"target_tokens": ids[1:], "weights": weights},
    )


Plan = list[tuple[int, list[int], int]]
"""Number of the adapter, prompt, tokens to sample."""


def plan_of(told: dict[str, Any], number: int, client: int) -> Plan:
    """What a client asks for in a round: the same at every server."""
    draw = random.Random(f"{told['seed']}:{number}:{client}")
    return [
        (
            draw.randrange(told["adapters"]),
            [draw.randrange(FIRST_ID, told["vocab"]) for _ in range(draw.randint(*PROMPT_TOKENS))],
            draw.choice(MAX_TOKENS),
        )
        for _ in range(told["requests"])
    ]


def one_client(samplers: list[Any], plan: Plan) -> int:
    """How many tokens it got."""
    tokens = 0
    for adapter, prompt, max_tokens in plan:
        params = tinker.SamplingParams(max_tokens=max_tokens, temperature=0.0, stop=[])
        asked = samplers[adapter].sample(tinker.ModelInput.from_ints(prompt), 1, params)
        tokens += len(asked.result().sequences[0].tokens)
    return tokens


def train(service: Any, told: dict[str, Any]) -> None:
    """Large batches, the next one sent before the one before is done."""
    client = new_run(service, told, 0)
    draw = random.Random(0)
    data = [
        datum(draw, told["vocab"], draw.randint(180, 300), 60) for _ in range(told["batch_size"])
    ]
    stopped = threading.Event()
    threading.Thread(target=lambda: (sys.stdin.read(), stopped.set()), daemon=True).start()
    under_way: list[Any] = []
    steps = 0
    while not stopped.is_set():
        under_way.append(client.forward_backward(data, "cross_entropy"))
        under_way.append(client.optim_step(tinker.AdamParams(learning_rate=1e-5)))
        if len(under_way) > 2:
            under_way.pop(0).result()
            under_way.pop(0).result()
            steps += 1
            if steps == 1:
                answer({"ready": True})
    answer({"steps": steps})


def answer(told: dict[str, Any]) -> None:
    print(json.dumps(told), flush=True)


if __name__ == "__main__":
    main()
