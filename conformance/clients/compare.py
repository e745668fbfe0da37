"""`python -m conformance.clients.compare PATH PEFT MERGED`: one checkpoint, computed three ways.

Log p of one text from the server, from the base model with the PEFT adapter, and from the merged
model. The last line is JSON: the largest differences from what the server says, in nats.
"""

from __future__ import annotations

import json
import sys

import tinker
import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel

TEXT = "User: Ann has 2 keys and finds one more. How many keys now?\n\nAssistant: \\boxed{3}"


def main(tinker_path: str, peft: str, merged: str) -> None:
    tokens = AutoTokenizer.from_pretrained(merged)(TEXT).input_ids
    with tinker.ServiceClient() as service:
        sampler = service.create_sampling_client(model_path=tinker_path).result()
        served = sampler.compute_logprobs(tinker.ModelInput.from_ints(tokens)).result()[1:]
    base = AutoModelForCausalLM.from_pretrained("model", dtype=torch.float32)
    models = {
        "merged": AutoModelForCausalLM.from_pretrained(merged, dtype=torch.float32),
        "PEFT": PeftModel.from_pretrained(base, peft),
    }
    gaps = {
        name: (logprobs(model, tokens) - torch.tensor(served)).abs().max().item()
        for name, model in models.items()
    }
    print(json.dumps(gaps))


@torch.inference_mode()
def logprobs(model: PreTrainedModel | PeftModel, tokens: list[int]) -> torch.Tensor:
    ids = torch.tensor([tokens])
    scores = model(ids).logits[0, :-1].log_softmax(-1)
    return scores.gather(1, ids[0, 1:, None])[:, 0]


if __name__ == "__main__":
    main(*sys.argv[1:])
