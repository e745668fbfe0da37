"""Fine-tune a base model by LoRA on labelled mail and measure it: the figures of the model card.

    mailroom build --data email_triage_train.csv.gz --taxonomy reference --limit 400 \
        --test-size 2000 --seed 0 --out corpus
    python -m pretraining.probe --model DIR --corpus corpus --seed 0

Data, prompt and answers are mailroom's; training and generation are stock transformers and PEFT,
nothing of tinsmith: an independent measurement.
"""

import argparse
import json
import random
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from mailroom.mail.message import Message
from mailroom.prompt.chat import render_prompt
from mailroom.prompt.form import parse_answer
from mailroom.taxonomy import Answer, Taxonomy
from peft import LoraConfig, get_peft_model
from torch.nn import functional as F
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer


@dataclass(frozen=True, slots=True)
class Example:
    prompt: list[int]
    completion: list[int]
    answer: Answer


def read_examples(path: Path, tokenizer, taxonomy: Taxonomy) -> list[Example]:
    """The rows of a corpus file as token ids, the completion with its EOS."""
    examples = []
    for line in path.read_text(encoding="utf-8").splitlines():
        row = json.loads(line)
        message = Message(subject=row["subject"], body=row["body"])
        completion = tokenizer(row["completion"], add_special_tokens=False).input_ids
        examples.append(
            Example(
                render_prompt(message, tokenizer, taxonomy),
                [*completion, tokenizer.eos_token_id],
                taxonomy.answer(row["category"], message),
            )
        )
    return examples


def train_adapter(model, examples, *, lr: float, epochs: int, batch: int, seed: int, pad: int):
    """300 steps for 400 examples: AdamW, summed loss over the completion, linear decay."""
    rng = random.Random(seed)
    order: list[int] = []
    for _ in range(epochs):
        epoch = list(range(len(examples)))
        rng.shuffle(epoch)
        order += epoch
    steps = len(order) // batch
    parameters = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(parameters, betas=(0.9, 0.95), eps=1e-12, weight_decay=0.0)
    model.train()
    for step in range(steps):
        chosen = [examples[i] for i in order[step * batch : (step + 1) * batch]]
        width = max(len(e.prompt) + len(e.completion) for e in chosen)
        ids = torch.full((batch, width), pad)
        target = torch.full((batch, width), -100)
        for b, example in enumerate(chosen):
            start, stop = len(example.prompt), len(example.prompt) + len(example.completion)
            ids[b, :stop] = torch.tensor(example.prompt + example.completion)
            target[b, start:stop] = torch.tensor(example.completion)
        logits = model(input_ids=ids, use_cache=False).logits
        loss = F.cross_entropy(
            logits[:, :-1].flatten(0, 1), target[:, 1:].flatten(), reduction="sum"
        )
        loss.backward()
        for group in optimizer.param_groups:
            group["lr"] = lr * min(1.0, (step + 1) / 10) * (1 - step / steps)
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        optimizer.zero_grad()
    return loss.item()


@torch.no_grad()
def generate(model, prompts, tokenizer, *, batch: int = 50) -> list[str]:
    """Greedy answers, padded on the left."""
    model.eval()
    by_length = sorted(range(len(prompts)), key=lambda i: len(prompts[i]))
    texts = [""] * len(prompts)
    for at in range(0, len(by_length), batch):
        chosen = by_length[at : at + batch]
        width = max(len(prompts[i]) for i in chosen)
        ids = torch.full((len(chosen), width), tokenizer.pad_token_id)
        mask = torch.zeros(len(chosen), width, dtype=torch.long)
        for b, i in enumerate(chosen):
            ids[b, width - len(prompts[i]) :] = torch.tensor(prompts[i])
            mask[b, width - len(prompts[i]) :] = 1
        out = model.generate(
            input_ids=ids, attention_mask=mask, max_new_tokens=130, do_sample=False
        )
        for i, row in zip(chosen, out[:, width:].tolist(), strict=True):
            end = row.index(tokenizer.eos_token_id) if tokenizer.eos_token_id in row else None
            # An answer that never ends keeps a mark that no right answer has.
            texts[i] = tokenizer.decode(row[:end]) + ("" if end is not None else "<unfinished>")
    return texts


def score(texts: Sequence[str], examples: Sequence[Example], taxonomy: Taxonomy) -> dict:
    """Shares of answers in the exact form and of right values; a broken form has none right."""
    answers = [parse_answer(text, taxonomy) for text in texts]
    pairs = [(a, e.answer) for a, e in zip(answers, examples, strict=True) if a is not None]
    counts = {
        "format": len(pairs),
        "category": sum(a.category == right.category for a, right in pairs),
        "priority": sum(a.priority == right.priority for a, right in pairs),
        "whole_answer": sum(a == right for a, right in pairs),
    }
    return {name: round(count / len(examples), 4) for name, count in counts.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--corpus", type=Path, required=True, help="made by `mailroom build`")
    parser.add_argument("--seed", type=int, default=0, help="of the adapter and the order")
    parser.add_argument("--lr", type=float, default=2e-3)
    parser.add_argument("--test", type=int, default=2000, help="at most so many test rows")
    parser.add_argument(
        "--validate", type=int, default=0, help="measure on so many training rows held out"
    )
    parser.add_argument("--random-weights", action="store_true")
    parser.add_argument("--threads", type=int, default=1)
    arguments = parser.parse_args()

    torch.set_num_threads(arguments.threads)
    torch.manual_seed(arguments.seed)
    tokenizer = AutoTokenizer.from_pretrained(arguments.model)
    if arguments.random_weights:
        config = AutoConfig.from_pretrained(arguments.model, dtype=torch.float32)
        model = AutoModelForCausalLM.from_config(config)
    else:
        model = AutoModelForCausalLM.from_pretrained(arguments.model, dtype=torch.float32)
    taxonomy = Taxonomy.load(arguments.corpus / "taxonomy.toml")
    train = read_examples(arguments.corpus / "train.jsonl", tokenizer, taxonomy)
    test = read_examples(arguments.corpus / "test.jsonl", tokenizer, taxonomy)
    random.Random(arguments.seed).shuffle(test)
    test = test[: arguments.test]
    if arguments.validate:
        random.Random(arguments.seed).shuffle(train)
        train, test = train[arguments.validate :], train[: arguments.validate]
    prompts = [example.prompt for example in test]
    before = score(generate(model, prompts[:100], tokenizer), test[:100], taxonomy)
    lora = LoraConfig(r=32, lora_alpha=32, target_modules="all-linear", task_type="CAUSAL_LM")
    adapted = get_peft_model(model, lora)
    start = time.monotonic()
    last_loss = train_adapter(
        adapted, train, lr=arguments.lr, epochs=3, batch=4, seed=arguments.seed,
        pad=tokenizer.pad_token_id,
    )  # fmt: skip
    train_s = time.monotonic() - start
    start = time.monotonic()
    after = score(generate(adapted, prompts, tokenizer), test, taxonomy)
    print(json.dumps({
        "seed": arguments.seed, "lr": arguments.lr, "random_weights": arguments.random_weights,
        "train": len(train), "test": len(test), "before": before, "after": after,
        "last_loss": round(last_loss, 3), "train_s": round(train_s, 1),
        "generate_s": round(time.monotonic() - start, 1),
    }))  # fmt: skip


if __name__ == "__main__":
    main()
