"""Words that the conformance tests share: a live server, datums, steps, adapters."""

from __future__ import annotations

import os
import urllib.request
from dataclasses import dataclass
from pathlib import Path

import httpx
import numpy as np
import tinker
from safetensors.numpy import load as load_safetensors

MODEL = "conformance/tiny"
OTHER_MODEL = "conformance/other"
KEY = "tml-conformance"
ADAM = tinker.AdamParams(learning_rate=1e-2, eps=1e-8)


@dataclass(frozen=True)
class LiveServer:
    url: str
    home: Path
    model_directory: Path
    log: Path

    def http(self, key: str | None = KEY) -> httpx.Client:
        """A plain HTTP client of the API's root."""
        headers = {} if key is None else {"X-API-Key": key}
        return httpx.Client(base_url=f"{self.url}/api/v1", headers=headers, timeout=60.0)

    def environment(self, **changes: str) -> dict[str, str]:
        """For child processes that use the SDK."""
        return {
            **os.environ,
            "TINKER_BASE_URL": self.url,
            "TINKER_API_KEY": KEY,
            "OMP_NUM_THREADS": "1",
            **changes,
        }


def datum_of(tokens: list[int], weights: list[float] | None = None) -> tinker.Datum:
    """Predict each token from those before it."""
    return tinker.Datum(
        model_input=tinker.ModelInput.from_ints(tokens[:-1]),
        loss_fn_inputs={
            "target_tokens": np.asarray(tokens[1:], dtype=np.int64),
            "weights": np.asarray(weights or [1.0] * (len(tokens) - 1), dtype=np.float32),
        },
    )


def batch_of(num_datums: int, *, length: int = 8, seed: int = 0) -> list[tinker.Datum]:
    generator = np.random.default_rng(seed)
    return [datum_of(generator.integers(1, 250, length).tolist()) for _ in range(num_datums)]


def train(run: tinker.TrainingClient, seeds: list[int]) -> None:
    """One step per seed, submitted ahead."""
    futures = []
    for seed in seeds:
        futures.append(run.forward_backward(batch_of(4, seed=seed), "cross_entropy"))
        futures.append(run.optim_step(ADAM))
    for future in futures:
        future.result()


def adapter_of(run: tinker.TrainingClient, rest, name: str) -> dict[str, np.ndarray]:
    """The run's weights now, by exporting and downloading them."""
    path = run.save_weights_external(name).result().path
    urls = rest.get_external_weights_urls(path).result().urls
    with urllib.request.urlopen(urls["adapter_model.safetensors"], timeout=30) as response:
        return load_safetensors(response.read())


def assert_equal_adapters(
    first: dict[str, np.ndarray], second: dict[str, np.ndarray], *, rtol: float = 0.0
) -> None:
    assert first.keys() == second.keys()
    for name in first:
        largest = np.abs(first[name]).max()
        np.testing.assert_allclose(
            first[name], second[name], rtol=rtol, atol=rtol * largest, err_msg=name
        )
