"""transformers + PEFT in a plain loop over right-padded batches: what a person writes first.

Settings: `learning_rates`, one for each step in turn, instead of the spec's one.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from itertools import cycle

import torch
from mail_batches import Batch, num_tokens
from sides import Spec


def peft_model(spec: Spec):
    """The base model with a LoRA adapter on all linear layers but the output layer."""
    import peft
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(spec.directory, dtype=getattr(torch, spec.dtype))
    return peft.get_peft_model(model.to(spec.device), lora_config(spec.rank))


def lora_config(rank: int):
    import peft

    return peft.LoraConfig(
        r=rank, lora_alpha=32, target_modules="all-linear", task_type="CAUSAL_LM"
    )


def padded(batch: Batch, device: str) -> dict[str, torch.Tensor]:
    """Model inputs [batch, longest]; padding is masked and carries no loss."""
    longest = max(len(example.tokens) for example in batch)
    ids = torch.zeros(len(batch), longest, dtype=torch.int64)
    mask, labels = torch.zeros_like(ids), torch.full_like(ids, -100)
    for index, example in enumerate(batch):
        size = len(example.tokens)
        ids[index, :size] = torch.tensor(example.tokens)
        labels[index, :size] = torch.tensor(example.labels)
        mask[index, :size] = 1
    columns = {"input_ids": ids, "attention_mask": mask, "labels": labels}
    return {name: column.to(device) for name, column in columns.items()}


def run(spec: Spec, turns: Iterator[None], tell: Callable[[dict[str, float]], None]) -> None:
    model = peft_model(spec)
    model.train()
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=spec.learning_rate, weight_decay=0.0, fused=True)
    batches = [(num_tokens(batch), padded(batch, spec.device)) for batch in spec.task.batches()]
    rates = cycle(spec.settings.get("learning_rates", [spec.learning_rate]))
    for (tokens, inputs), rate, _ in zip(cycle(batches), rates, turns, strict=False):
        for group in optimizer.param_groups:
            group["lr"] = rate
        started = time.perf_counter()
        loss = model(**inputs, use_cache=False).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        mean_loss = loss.item()
        if spec.device != "cpu":
            torch.cuda.synchronize()
        seconds = time.perf_counter() - started
        tell({"seconds": seconds, "tokens": tokens, "loss": mean_loss})
