"""Many SDK clients in one process, each in a thread of its own: they train, save and sample.

    python load_clients.py URL FIRST COUNT SECONDS

Clients FIRST to FIRST + COUNT - 1, three of four train and the others sample from the base model.
Prints one JSON document: how many results came, and every error there was.
"""

from __future__ import annotations

import json
import random
import sys
import threading
import time
import traceback

import tinker

MODEL = "tinsmith/tiny"
VOCAB = 3072
FIRST_ID = 8
"""Lower ids are control tokens."""
PAUSE_S = 1.0
"""At most, between two things that a client does."""


class Client:
    """One user with a loop."""

    def __init__(self, url: str, number: int, until: float) -> None:
        self._url = url
        self._number = number
        self._until = until
        self._draw = random.Random(number)
        self.num_results = 0
        self.error: str | None = None
        self.thread = threading.Thread(target=self._run)

    def _run(self) -> None:
        try:
            service = tinker.ServiceClient(base_url=self._url, api_key=f"tml-{self._number}")
            if self._number % 4:
                self._train(service)
            else:
                self._sample_from_base(service)
            service.close("success").result()
        except Exception:
            self.error = traceback.format_exc()

    def _train(self, service: tinker.ServiceClient) -> None:
        run = service.create_lora_training_client(MODEL, rank=4, seed=self._number).result()
        while self._goes_on():
            pending = []
            for _ in range(3):
                pending.append(run.forward_backward([self._datum()], "cross_entropy"))
                pending.append(run.optim_step(tinker.AdamParams(learning_rate=1e-4)))
            for future in pending:
                self._wait(future)
            self._wait(run.save_state("latest", overwrite=True))
            sampler = run.save_weights_and_get_sampling_client()
            self._sample(sampler)

    def _sample_from_base(self, service: tinker.ServiceClient) -> None:
        sampler = service.create_sampling_client(base_model=MODEL).result()
        while self._goes_on():
            self._sample(sampler)

    def _sample(self, sampler: tinker.SamplingClient) -> None:
        params = tinker.SamplingParams(max_tokens=8, temperature=1.0, seed=self._number)
        prompt = tinker.ModelInput.from_ints(self._tokens(16))
        sampled = self._wait(sampler.sample(prompt, 1, params))
        assert len(sampled.sequences) == 1

    def _wait(self, future):
        result = future.result()
        self.num_results += 1
        return result

    def _goes_on(self) -> bool:
        time.sleep(self._draw.uniform(0.0, PAUSE_S))
        return time.monotonic() < self._until

    def _datum(self) -> tinker.Datum:
        tokens = self._tokens(17)
        return tinker.Datum(
            model_input=tinker.ModelInput.from_ints(tokens[:-1]),
            loss_fn_inputs={"target_tokens": tokens[1:], "weights": [1.0] * 16},
        )

    def _tokens(self, count: int) -> list[int]:
        return [self._draw.randrange(FIRST_ID, VOCAB) for _ in range(count)]


def main() -> None:
    url, first, count, seconds = sys.argv[1:]
    until = time.monotonic() + float(seconds)
    numbers = range(int(first), int(first) + int(count))
    clients = [Client(url, number, until) for number in numbers]
    for client in clients:
        client.thread.start()
    for client in clients:
        client.thread.join()
    print(
        json.dumps(
            {
                "results": [client.num_results for client in clients],
                "errors": [client.error for client in clients if client.error],
            }
        )
    )


if __name__ == "__main__":
    main()
