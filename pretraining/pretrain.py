"""Pre-train the built-in base model and write it in Hugging Face layout.

    python -m pretraining.pretrain --out tinsmith/src/tinsmith/models/tiny

The result depends on the seed and the numbers of steps alone (and, in the last digits, on the
version of torch and the kind of CPU).
"""

import argparse
import json
import sys
import time
from collections.abc import Iterator
from itertools import chain, islice
from pathlib import Path

import torch
from tokenizers import Tokenizer
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import GenerationConfig, Qwen3ForCausalLM

from pretraining import tokenizer as bpe
from pretraining.batches import Batch, batches
from pretraining.corpus import documents
from pretraining.grammar import Grammar
from pretraining.model import new_model
from pretraining.muon import Muon

TOKENIZER_SEED = 7

SHORT = {"rows": 12, "row_tokens": 256}
LONG = {"rows": 4, "row_tokens": 768}
LONG_SENTENCES = 36

MUON_LR = 1e-2
ADAM_LR = 3e-3
WARM_UP_STEPS = 20
LOSS_SHARE = 0.4
"""Share of a batch's tokens whose successor is learned: all answers, and some of the rest."""

KIND_LAYER = -2
"""The kind of message is read off the hidden states before the last layer."""
KIND_WEIGHT = 0.5


class Pretrained(nn.Module):
    """The model and, for the time of its training, a head that names the kind of message.

    Each token of a message is to know what kind of message it belongs to, as far as it is read.
    That teaches to gather the gist far sooner than answers alone, which are few. The head is
    thrown away.
    """

    def __init__(self, model: Qwen3ForCausalLM, num_kinds: int) -> None:
        super().__init__()
        self.model = model
        self.kind_head = nn.Linear(model.config.hidden_size, num_kinds)

    def forward(self, batch: Batch, chosen_N: Tensor) -> tuple[Tensor, Tensor]:
        """(weighted mean loss of the chosen tokens, mean loss of the kinds)"""
        out = self.model.model(
            input_ids=batch.input_BT,
            position_ids=batch.position_BT,
            attention_mask=batch.mask_B1TT,
            use_cache=False,
            output_hidden_states=True,
        )
        logits_NV = self.model.lm_head(out.last_hidden_state.flatten(0, 1)[chosen_N])
        loss_N = F.cross_entropy(logits_NV, batch.target_BT.flatten()[chosen_N], reduction="none")
        weight_N = batch.weight_BT.flatten()[chosen_N]
        kind_logits = self.kind_head(out.hidden_states[KIND_LAYER]).flatten(0, 1)
        kind_loss = F.cross_entropy(kind_logits, batch.kind_BT.flatten(), ignore_index=-1)
        return (loss_N * weight_N).sum() / weight_N.sum(), kind_loss


def choose(batch: Batch) -> Tensor:
    """Positions of the tokens to learn: those of full weight first, then others at random."""
    weight_N = batch.weight_BT.flatten()
    rank_N = torch.where(weight_N > 0, torch.rand_like(weight_N) + (weight_N == 1), -1.0)
    return rank_N.topk(int(LOSS_SHARE * len(rank_N))).indices


def optimizers(trained: Pretrained) -> list[torch.optim.Optimizer]:
    """Muon for the matrices of the layers, AdamW for embeddings, norms and the head of kinds."""
    matrices = [p for p in trained.model.model.layers.parameters() if p.ndim == 2]
    chosen = {id(p) for p in matrices}
    others = [p for p in trained.parameters() if id(p) not in chosen]
    return [
        Muon(matrices, MUON_LR, weight_decay=0.05),
        torch.optim.AdamW(others, ADAM_LR, betas=(0.9, 0.98), weight_decay=0.0),
    ]


def rate(step: int, steps: int) -> float:
    """The share of the peak learning rate: warm-up, then down in a line to a twentieth."""
    return min(1.0, (step + 1) / WARM_UP_STEPS) * (1 - 0.95 * step / steps)


def pretrain(trained: Pretrained, stream: Iterator[Batch], steps: int, *, compiled: bool) -> None:
    """Train in place for a number of steps; progress goes to standard error."""
    run = torch.compile(trained, dynamic=False) if compiled else trained
    peaks = [(o, o.param_groups[0]["lr"]) for o in optimizers(trained)]
    start = time.process_time()
    for step in range(steps):
        batch = next(stream)
        loss, kind_loss = run(batch, choose(batch))
        (loss + KIND_WEIGHT * kind_loss).backward()
        nn.utils.clip_grad_norm_(trained.parameters(), 1.0)
        for optimizer, peak in peaks:
            optimizer.param_groups[0]["lr"] = peak * rate(step, steps)
            optimizer.step()
            optimizer.zero_grad()
        if step % 50 == 49 or step == steps - 1:
            seconds = time.process_time() - start
            print(
                f"step {step + 1}/{steps} loss {loss.item():.3f} kind {kind_loss.item():.3f} "
                f"{seconds:.0f} CPU seconds",
                file=sys.stderr,
            )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, required=True, help="folder to write")
    parser.add_argument("--steps", type=int, default=2000, help="batches of short messages")
    parser.add_argument("--long-steps", type=int, default=100, help="then of long ones")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--no-compile", action="store_true", help="slower, but starts at once")
    arguments = parser.parse_args()

    torch.set_num_threads(arguments.threads)
    grammar = Grammar.load()
    tokenizer = bpe.train(grammar, TOKENIZER_SEED)
    model = new_model(grammar, tokenizer, arguments.seed)
    trained = Pretrained(model, len(grammar.kinds))
    short = batches(documents(grammar, arguments.seed), tokenizer, **SHORT)
    texts = documents(grammar, arguments.seed + 1, max_sentences=LONG_SENTENCES)
    long = batches(texts, tokenizer, **LONG)
    pretrain(
        trained,
        chain(islice(short, arguments.steps), long),
        arguments.steps + arguments.long_steps,
        compiled=not arguments.no_compile,
    )
    save(model, tokenizer, arguments.out)


def save(model: Qwen3ForCausalLM, tokenizer: Tokenizer, out: Path) -> None:
    """Write weights in bfloat16, generation settings and tokenizer."""
    ends = [tokenizer.token_to_id(token) for token in ("<|im_end|>", "<|endoftext|>")]
    model.generation_config = GenerationConfig(
        do_sample=False, eos_token_id=ends, pad_token_id=ends[1]
    )
    model.to(torch.bfloat16).save_pretrained(out)
    bpe.save(tokenizer, out)
    for path in out.iterdir():
        path.chmod(0o644)
    size = sum(path.stat().st_size for path in out.iterdir())
    print(json.dumps({"parameters": model.num_parameters(), "bytes": size}))


if __name__ == "__main__":
    main()
