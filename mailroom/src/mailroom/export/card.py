"""The model card: what an adapter is, how good it is, and how to use it without us."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from mailroom.config import BETTER_ON_CPU, BUILTIN_BASE_MODEL, REFERENCE_BASE_MODEL
from mailroom.decision.model import Model
from mailroom.mail.message import Message
from mailroom.prompt.chat import prompt_text
from mailroom.prompt.form import render_answer
from mailroom.taxonomy import Taxonomy

SAMPLE = Message(
    subject="Your code is 731442", body="Use 731442 to sign in. It expires in ten minutes."
)


def model_card(model: Model, scores: Mapping[str, Any], rank: int, alpha: float) -> str:
    """The card as Markdown with the hub's front matter.

    Args:
        scores: `before`, `after` and `baselines` of an evaluation, or empty.
        alpha: the adapter's scale is alpha / rank.
    """
    return (
        "\n\n".join(
            [
                _front_matter(model),
                f"# Mail triage for {model.base_model}",
                "A LoRA adapter that reads one e-mail and answers in four steps: category, "
                "priority, suggested actions, and a drafted response where one is wanted.",
                *_honest_words(model),
                "## Training\n\n" + _training(model, rank, alpha),
                "## Figures\n\n" + _figures(scores),
                "## Categories\n\n" + _categories(model.taxonomy),
                "## Prompt and answer\n\n" + _forms(model.taxonomy),
                "## How to use it\n\n" + _uses(model),
            ]
        )
        + "\n"
    )


def _front_matter(model: Model) -> str:
    return (
        f"---\nbase_model: {model.base_model}\nlibrary_name: peft\npipeline_tag: text-generation\n"
        "tags:\n- lora\n- email\n- mailroom\n---"
    )


def _honest_words(model: Model) -> list[str]:
    if model.base_model != BUILTIN_BASE_MODEL:
        return []
    return [
        f"> The base model is the small one that ships with tinsmith (`{BUILTIN_BASE_MODEL}`): "
        "this adapter shows the mechanics and is no good for a mailbox of your own. That deserves "
        f"`{BETTER_ON_CPU}` (CPU) or `{REFERENCE_BASE_MODEL}` (GPU)."
    ]


def _training(model: Model, rank: int, alpha: float) -> str:
    told = model.training
    lines = [f"- base model: `{model.base_model}`", f"- rank {rank}, alpha {alpha:g}"]
    names = {
        "corpus": "data",
        "num_examples": "training examples at most (0: all)",
        "batch_size": "batch size",
        "learning_rate": "learning rate",
        "schedule": "schedule",
        "num_epochs": "epochs",
        "weight_decay": "weight decay (Adam)",
        "seed": "seed",
    }
    lines += [f"- {title}: {told[name]}" for name, title in names.items() if name in told]
    lines.append(f"- prompts of at most {model.max_prompt_tokens} tokens; loss on the answer only")
    return "\n".join(lines)


def _figures(scores: Mapping[str, Any]) -> str:
    rows = {
        "base model": scores.get("before"),
        "with this adapter": scores.get("after"),
        **dict(scores.get("baselines") or {}),
    }
    lines = [
        f"| {name} | {found['examples']} | {_share(found.get('category'))} "
        f"| {_share(found.get('format'))} | {_share(found.get('priority'))} |"
        for name, found in rows.items()
        if found
    ]
    if not lines:
        return "Not evaluated yet: run `mailroom evaluate` before `mailroom export`."
    head = "| | test mails | category | exact form | priority |\n|---|---|---|---|---|"
    return "\n".join([head, *lines])


def _share(value: float | None) -> str:
    return "" if value is None else f"{value:.1%}"


def _categories(taxonomy: Taxonomy) -> str:
    rows = [
        f"| {category.name} | {category.priority} | {'yes' if category.draft else 'no'} "
        f"| {category.description} |"
        for category in taxonomy.categories
    ]
    head = "| category | priority | draft | |\n|---|---|---|---|"
    return "\n".join(
        [head, *rows, "", "The whole of it, with actions and drafts: `taxonomy.toml`."]
    )


def _forms(taxonomy: Taxonomy) -> str:
    category = taxonomy.find("verify_code") or taxonomy.categories[0]
    answer = render_answer(taxonomy, taxonomy.answer(category.key, SAMPLE))
    prompt = prompt_text(SAMPLE, taxonomy).strip()
    return (
        "The text around a message, before the base model's own chat template is put on it:\n\n"
        f"```\n{prompt}\n```\n\n"
        f"An answer, ended by the tokenizer's EOS token:\n\n```\n{answer}\n```"
    )


def _uses(model: Model) -> str:
    is_builtin = model.base_model == BUILTIN_BASE_MODEL
    base = "BASE_FOLDER" if is_builtin else model.base_model
    where = (
        "\n\n`BASE_FOLDER` is what `tinsmith doctor --json` calls `default_model_dir`."
        if is_builtin
        else ""
    )
    return f"""\
**With the Tinker SDK**, from the service that trained it, or with mailroom itself:

```python
client = tinker.ServiceClient().create_sampling_client(
    model_path="{model.reference}"
).result()
```

```
mailroom triage mail.eml --model {model.reference}
```

**With transformers and PEFT**, from this folder:

```python
from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer

base = AutoModelForCausalLM.from_pretrained("{base}")
model = PeftModel.from_pretrained(base, "THIS_FOLDER")
tokenizer = AutoTokenizer.from_pretrained("{base}")
```

**Merged into the base model**, where no PEFT is at hand: `mailroom export --merged` writes a folder
that `AutoModelForCausalLM.from_pretrained` loads by itself.{where}"""
