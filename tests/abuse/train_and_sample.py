"""A program of the SDK's, run in a process of its own: trains, saves, downloads, samples.

It knows nothing but TINKER_BASE_URL and TINKER_API_KEY, and prints one JSON document.
"""

from __future__ import annotations

import json
import sys
import urllib.request

import numpy as np
import tinker

MODEL = "tinsmith/tiny"


def main() -> None:
    service = tinker.ServiceClient()
    run = service.create_lora_training_client(MODEL, rank=4, seed=7).result()
    losses = []
    for step in range(3):
        tokens = np.random.default_rng(step).integers(5, 2000, 12)
        datum = tinker.Datum(
            model_input=tinker.ModelInput.from_ints(tokens[:-1].tolist()),
            loss_fn_inputs={"target_tokens": tokens[1:], "weights": np.ones(11, np.float32)},
        )
        losses.append(run.forward_backward([datum], "cross_entropy").result().metrics["loss:sum"])
        run.optim_step(tinker.AdamParams(learning_rate=1e-2)).result()
    path = run.save_weights_for_sampler("through").result().path
    sampler = service.create_sampling_client(model_path=path).result()
    params = tinker.SamplingParams(max_tokens=8, temperature=0.0)
    sampled = sampler.sample(tinker.ModelInput.from_ints([5, 6, 7]), 1, params).result()
    exported = run.save_weights_external("out").result().path
    urls = service.create_rest_client().get_external_weights_urls(exported).result().urls
    with urllib.request.urlopen(urls["adapter_model.safetensors"], timeout=60) as download:
        num_bytes = len(download.read())
    service.close("success").result()
    json.dump(
        {
            "losses": losses,
            "tokens": list(sampled.sequences[0].tokens),
            "url": urls["adapter_model.safetensors"],
            "downloaded_bytes": num_bytes,
        },
        sys.stdout,
    )


if __name__ == "__main__":
    main()
