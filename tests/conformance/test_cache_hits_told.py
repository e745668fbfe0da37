"""What the cache saved is told to the client that asked, and in /metrics."""

from __future__ import annotations

import time
from itertools import pairwise

import httpx
import numpy as np
import openai
import tinker
from prometheus_client.parser import text_string_to_metric_families
from sdk_steps import ADAM, KEY, MODEL, LiveServer, batch_of

BLOCK = 16
"""Tokens are found by blocks of so many."""
PATIENCE_S = 30.0


def prompt_of(seed: int, length: int = 43) -> list[int]:
    return np.random.default_rng(seed).integers(1, 250, length).tolist()


def sample(sampler: tinker.SamplingClient, prompt: list[int]) -> tinker.SampleResponse:
    params = tinker.SamplingParams(max_tokens=3, temperature=0.0, stop=[])
    return sampler.sample(tinker.ModelInput.from_ints(prompt), 1, params).result()


def read_metrics(server: LiveServer) -> dict[tuple[str, str], float]:
    """(name, labels) -> value."""
    response = httpx.get(f"{server.url}/metrics", timeout=30.0)
    assert response.status_code == 200
    return {
        (sample.name, str(sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(response.text)
        for sample in family.samples
    }


def of_model(metrics: dict[tuple[str, str], float], name: str) -> float:
    return metrics[name, str([("base_model", MODEL)])]


def metrics_after_a_step(
    server: LiveServer, run: tinker.TrainingClient
) -> dict[tuple[str, str], float]:
    """The engine tells its numbers just behind its results: so train, and wait until that shows."""
    name = "tinsmith_optim_steps_total"
    num_steps = of_model(read_metrics(server), name)
    run.forward_backward(batch_of(2, length=9), "cross_entropy").result()
    run.optim_step(ADAM).result()
    deadline = time.monotonic() + PATIENCE_S
    while time.monotonic() < deadline:
        if of_model(metrics := read_metrics(server), name) > num_steps:
            return metrics
        time.sleep(0.05)
    raise AssertionError("the numbers did not come")


def test_the_sdk_is_told_how_much_of_a_prompt_was_found(service):
    sampler = service.create_sampling_client(base_model=MODEL).result()
    prompt = prompt_of(1)

    assert sample(sampler, prompt).prompt_cache_hit_tokens == 0
    longer = [*prompt, *prompt_of(2, 5)]
    assert sample(sampler, longer).prompt_cache_hit_tokens == 2 * BLOCK


def test_openai_clients_find_it_in_the_usage(live_server):
    client = openai.OpenAI(base_url=f"{live_server.url}/v1", api_key=KEY)
    found = []
    for _ in range(2):
        done = client.completions.create(model=MODEL, prompt=prompt_of(3), max_tokens=2)
        assert done.usage is not None and done.usage.prompt_tokens_details is not None
        found.append(done.usage.prompt_tokens_details.cached_tokens)
    assert found == [0, 2 * BLOCK]


def test_metrics_tell_the_hit_rate_and_counters_never_fall(service, make_run, live_server):
    sampler = service.create_sampling_client(base_model=MODEL).result()
    run, prompt = make_run(), prompt_of(4)
    before = metrics_after_a_step(live_server, run)
    told = [before]
    for _ in range(3):
        sample(sampler, prompt)
        told.append(read_metrics(live_server))
    after = metrics_after_a_step(live_server, run)
    told.append(after)
    grown = {
        name: of_model(after, f"tinsmith_{name}_total") - of_model(before, f"tinsmith_{name}_total")
        for name in ("prompt_tokens", "cached_prompt_tokens", "generated_tokens", "training_tokens")
    }
    assert grown == {
        "prompt_tokens": 3 * len(prompt),
        "cached_prompt_tokens": 2 * 2 * BLOCK,
        "generated_tokens": 9,
        "training_tokens": 2 * 8,
    }
    assert of_model(after, "tinsmith_engine_ready") == 1
    assert of_model(after, "tinsmith_sequences_active") == 0
    for earlier, later in pairwise(told):
        for (name, labels), value in earlier.items():
            if name.endswith(("_total", "_count", "_sum", "_bucket")):
                assert later[name, labels] >= value, (name, labels)


def test_metrics_hold_no_names_but_those_of_base_models(service, make_run, live_server):
    sampler = service.create_sampling_client(base_model=MODEL).result()
    run = make_run()
    path = run.save_weights_for_sampler("secret-name").result().path
    sample(service.create_sampling_client(model_path=path).result(), prompt_of(5))

    text = httpx.get(f"{live_server.url}/metrics", timeout=30.0).text
    session_id = run.model_id.partition(":")[0]
    for name in ("secret-name", session_id, KEY, sampler.get_sampler_handle()):
        assert name not in text
