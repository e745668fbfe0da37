"""A training script as anybody would write it: the SDK, a loop, and nothing for servers that die.

    python training_script.py URL STEPS KEY...

Each key is a tenant. Prints one JSON document: for each tenant what came back, as exact bits.
"""

from __future__ import annotations

import hashlib
import json
import random
import sys
from collections import deque
from typing import Any

import tinker

MODEL = "tinsmith/tiny"
VOCAB = 3072
FIRST_ID = 8
"""Lower ids are control tokens."""
AHEAD = 3
"""Steps that are submitted before the first of them is waited for."""
SAVE_EVERY = 10


class Tenant:
    def __init__(self, url: str, key: str, seed: int) -> None:
        self._draw = random.Random(seed)
        self._service = tinker.ServiceClient(base_url=url, api_key=key)
        self._run = self._service.create_lora_training_client(MODEL, rank=8, seed=seed).result()
        self._under_way: deque[tuple[Any, Any]] = deque()
        self.told: dict[str, Any] = {"run_id": self._run.model_id, "steps": [], "samples": []}

    def step(self, number: int) -> None:
        batch = [self._datum() for _ in range(4)]
        self._under_way.append(
            (
                self._run.forward_backward(batch, "cross_entropy"),
                self._run.optim_step(tinker.AdamParams(learning_rate=1e-3)),
            )
        )
        if len(self._under_way) > AHEAD:
            self.collect()
        if (number + 1) % SAVE_EVERY == 0:
            self._run.save_state("latest", overwrite=True).result()
            self._sample(self._run.save_weights_for_sampler(f"step-{number}").result().path)

    def collect(self) -> None:
        output, stepped = (future.result() for future in self._under_way.popleft())
        logprobs = b"".join(one["logprobs"].to_numpy().tobytes() for one in output.loss_fn_outputs)
        self.told["steps"].append(
            [
                hashlib.sha256(logprobs).hexdigest(),
                output.metrics["loss:sum"].hex(),
                stepped.metrics,
            ]
        )

    def end(self) -> None:
        while self._under_way:
            self.collect()
        self._run.save_state("final").result()
        self._service.close("success").result()

    def _sample(self, path: str) -> None:
        sampler = self._service.create_sampling_client(model_path=path).result()
        prompt = tinker.ModelInput.from_ints([self._token() for _ in range(20)])
        params = tinker.SamplingParams(max_tokens=12, seed=7, temperature=1.0)
        sampled = sampler.sample(prompt, 2, params).result()
        self.told["samples"].append([list(one.tokens) for one in sampled.sequences])

    def _datum(self) -> tinker.Datum:
        tokens = [self._token() for _ in range(self._draw.randint(16, 48))]
        return tinker.Datum(
            model_input=tinker.ModelInput.from_ints(tokens[:-1]),
            loss_fn_inputs={
                "target_tokens": tokens[1:],
                "weights": [1.0] * (len(tokens) - 1),
            },
        )

    def _token(self) -> int:
        return self._draw.randrange(FIRST_ID, VOCAB)


def main() -> None:
    url, steps, *keys = sys.argv[1:]
    tenants = [Tenant(url, key, seed) for seed, key in enumerate(keys)]
    for number in range(int(steps)):
        for tenant in tenants:
            tenant.step(number)
    for tenant in tenants:
        tenant.end()
    print(json.dumps([tenant.told for tenant in tenants]))


if __name__ == "__main__":
    main()
