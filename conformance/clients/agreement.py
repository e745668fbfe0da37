"""`python -m conformance.clients.agreement PATH CHATS`: sampler and trainer on the same tokens.

Log p of tokens that the sampler drew (on policy) and of tokens of a file of chats (off policy).
The last line is JSON: the largest difference of each, in nats.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path

import tinker
from tinker_cookbook import renderers
from tinker_cookbook.supervised.data import conversation_to_datum

NUM_CHATS = 8
NUM_SAMPLES = 4
MAX_TOKENS = 24


def main(tinker_path: str, chats: str) -> None:
    rows = [json.loads(line) for line in Path(chats).read_text().splitlines()[:NUM_CHATS]]
    with tinker.ServiceClient() as service:
        trainer = service.create_training_client_from_state(tinker_path).result()
        sampler = trainer.save_weights_and_get_sampling_client().result()
        renderer = renderers.get_renderer("role_colon", trainer.get_tokenizer())
        gaps = {
            "on policy": on_policy(trainer, sampler, renderer, rows),
            "off policy": off_policy(trainer, sampler, renderer, rows),
        }
    print(json.dumps(gaps))


def off_policy(
    trainer: tinker.TrainingClient,
    sampler: tinker.SamplingClient,
    renderer: renderers.Renderer,
    rows: Sequence[dict],
) -> float:
    data = [conversation_to_datum(row["messages"], renderer, None) for row in rows]
    texts = [
        datum.model_input.append_int(int(datum.loss_fn_inputs["target_tokens"].data[-1]))
        for datum in data
    ]
    asked = [sampler.compute_logprobs(text) for text in texts]
    return max(
        largest_gap(scored, future.result()[1:])
        for scored, future in zip(trained(trainer, data), asked, strict=True)
    )


def on_policy(
    trainer: tinker.TrainingClient,
    sampler: tinker.SamplingClient,
    renderer: renderers.Renderer,
    rows: Sequence[dict],
) -> float:
    params = tinker.SamplingParams(max_tokens=MAX_TOKENS, stop=renderer.get_stop_sequences())
    prompts = [renderer.build_generation_prompt(row["messages"][:1]).to_ints() for row in rows]
    asked = [
        sampler.sample(tinker.ModelInput.from_ints(prompt), NUM_SAMPLES, params)
        for prompt in prompts
    ]
    data, drawn = [], []
    for prompt, future in zip(prompts, asked, strict=True):
        for sequence in future.result().sequences:
            data.append(datum_of(prompt + list(sequence.tokens)))
            drawn.append(sequence.logprobs)
    return max(
        largest_gap(scored[-len(logprobs) :], logprobs)
        for scored, logprobs in zip(trained(trainer, data), drawn, strict=True)
    )


def datum_of(tokens: list[int]) -> tinker.Datum:
    return tinker.Datum(
        model_input=tinker.ModelInput.from_ints(tokens[:-1]),
        loss_fn_inputs={"target_tokens": tokens[1:], "weights": [1.0] * (len(tokens) - 1)},
    )


def trained(trainer: tinker.TrainingClient, data: list[tinker.Datum]) -> list[list[float]]:
    """Log p of the targets of each datum, from a forward pass of training."""
    outputs = trainer.forward(data, "cross_entropy").result().loss_fn_outputs
    return [output["logprobs"].data for output in outputs]


def largest_gap(first: Sequence[float], second: Sequence[float]) -> float:
    return max(abs(a - b) for a, b in zip(first, second, strict=True))


if __name__ == "__main__":
    main(*sys.argv[1:])
