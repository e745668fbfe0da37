"""Pre-train the built-in base model and write it in Hugging Face layout.

    python -m pretraining.pretrain --out tinsmith/src/tinsmith/models/tiny

The result depends on the seed and the number of steps alone (and, in the last digits, on the
versions of torch and the kind of CPU).
"""

import argparse
import json
import math
import sys
import time
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional as F
from transformers import GenerationConfig, Qwen3Config, Qwen3ForCausalLM

from pretraining import tokenizer as bpe
from pretraining.batches import Batch, batches
from pretraining.corpus import documents
from pretraining.grammar import Grammar

TOKENIZER_SEED = 7
ROWS, ROW_TOKENS = 16, 256
PEAK_LR = 3e-3
WARM_UP_STEPS = 100
WEIGHT_DECAY = 0.05


def model_config(special: dict[str, int]) -> Qwen3Config:
    """The shape: wide rather than deep, since at this size overhead costs more than arithmetic."""
    return Qwen3Config(
        vocab_size=bpe.VOCABULARY_SIZE,
        hidden_size=192,
        intermediate_size=512,
        num_hidden_layers=4,
        num_attention_heads=6,
        num_key_value_heads=2,
        head_dim=32,
        max_position_embeddings=2048,
        rope_parameters={"rope_type": "default", "rope_theta": 10000.0},
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=special["<|im_end|>"],
        pad_token_id=special["<|endoftext|>"],
        attn_implementation="sdpa",
    )


def loss_of(model: torch.nn.Module, batch: Batch) -> Tensor:
    """Weighted mean cross entropy."""
    logits_BTV = model(
        input_ids=batch.input_BT,
        position_ids=batch.position_BT,
        attention_mask=batch.mask_B1TT,
        use_cache=False,
    ).logits
    loss_N = F.cross_entropy(logits_BTV.flatten(0, 1), batch.target_BT.flatten(), reduction="none")
    weight_N = batch.weight_BT.flatten()
    return (loss_N * weight_N).sum() / weight_N.sum()


def learning_rate(step: int, steps: int) -> float:
    """Warm-up, then half a cosine to a twentieth of the peak."""
    if step < WARM_UP_STEPS:
        return PEAK_LR * (step + 1) / WARM_UP_STEPS
    share = (step - WARM_UP_STEPS) / max(1, steps - WARM_UP_STEPS)
    return PEAK_LR * (0.05 + 0.95 * 0.5 * (1 + math.cos(math.pi * share)))


def pretrain(model: Qwen3ForCausalLM, stream, steps: int, *, compiled: bool) -> None:
    """Train in place for a number of steps; progress goes to standard error."""
    run = torch.compile(model) if compiled else model
    decayed = [p for p in model.parameters() if p.ndim > 1]
    plain = [p for p in model.parameters() if p.ndim <= 1]
    optimizer = torch.optim.AdamW(
        [{"params": decayed, "weight_decay": WEIGHT_DECAY}, {"params": plain, "weight_decay": 0.0}],
        betas=(0.9, 0.98),
        fused=True,
    )
    start = time.monotonic()
    for step in range(steps):
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(step, steps)
        loss = loss_of(run, next(stream))
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        if step % 50 == 0 or step == steps - 1:
            seconds = time.monotonic() - start
            print(f"step {step}/{steps} loss {loss.item():.4f} {seconds:.0f}s", file=sys.stderr)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, required=True, help="folder to write")
    parser.add_argument("--steps", type=int, default=4000, help="batches of 4,096 tokens")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--no-compile", action="store_true", help="slower, starts at once")
    arguments = parser.parse_args()

    torch.set_num_threads(arguments.threads)
    torch.manual_seed(arguments.seed)
    grammar = Grammar.load()
    tokenizer = bpe.train(grammar, TOKENIZER_SEED)
    special = {token: tokenizer.token_to_id(token) for token in bpe.SPECIAL_TOKENS}
    model = Qwen3ForCausalLM(model_config(special))
    stream = batches(
        documents(grammar, arguments.seed), tokenizer, rows=ROWS, row_tokens=ROW_TOKENS
    )
    pretrain(model, stream, arguments.steps, compiled=not arguments.no_compile)

    model.generation_config = GenerationConfig(
        do_sample=False,
        eos_token_id=[special["<|im_end|>"], special["<|endoftext|>"]],
        pad_token_id=special["<|endoftext|>"],
    )
    model.to(torch.bfloat16).save_pretrained(arguments.out)
    bpe.save(tokenizer, arguments.out)
    size = sum(path.stat().st_size for path in arguments.out.iterdir())
    print(json.dumps({"parameters": model.num_parameters(), "bytes": size}))


if __name__ == "__main__":
    main()
