"""Prompt and answer as one sequence of tokens and weights, and as the datum a service trains on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from mailroom.mail.message import Message
from mailroom.prompt.chat import MAX_PROMPT_TOKENS, PromptError, render_prompt
from mailroom.prompt.plain_text import encode_plain
from mailroom.taxonomy import Taxonomy

if TYPE_CHECKING:
    import tinker
    from transformers import PreTrainedTokenizerBase


@dataclass(frozen=True, slots=True)
class WeightedTokens:
    """One example as a model trains on it, before the shift by one."""

    tokens: tuple[int, ...]
    weights: tuple[float, ...]
    """One for each token: 0 for the prompt, 1 for the completion and its EOS."""

    @property
    def num_weighted(self) -> int:
        return sum(1 for weight in self.weights if weight)


def completion_ids(text: str, tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """The ids of an answer, with the tokenizer's EOS at the end and no BOS.

    Raises:
        PromptError: the tokenizer has no EOS, or cannot write a character of the text.
    """
    eos = tokenizer.eos_token_id
    if not isinstance(eos, int):
        raise PromptError("The base model's tokenizer has no EOS token, so no answer could end.")
    ids = encode_plain(text, tokenizer)
    unknown = tokenizer.unk_token_id
    if unknown is not None and unknown in ids:
        characters = sorted({c for c in text if unknown in encode_plain(c, tokenizer)})
        raise PromptError(
            f"The base model's tokenizer cannot write {' '.join(characters) or text!r}, which an "
            "answer needs. Choose another base model, or change the taxonomy's texts."
        )
    return [*ids, eos]


def join(prompt: Sequence[int], completion: Sequence[int]) -> WeightedTokens:
    """Prompt and completion (EOS included) side by side, with their weights."""
    return WeightedTokens(
        tokens=(*prompt, *completion),
        weights=(*(0.0 for _ in prompt), *(1.0 for _ in completion)),
    )


def encode_example(
    message: Message,
    completion: str,
    tokenizer: PreTrainedTokenizerBase,
    taxonomy: Taxonomy,
    max_prompt_tokens: int = MAX_PROMPT_TOKENS,
) -> WeightedTokens:
    """A labelled message as weighted tokens, by the rendering that triage uses."""
    prompt = render_prompt(message, tokenizer, taxonomy, max_prompt_tokens)
    return join(prompt, completion_ids(completion, tokenizer))


def to_datum(sequence: WeightedTokens) -> tinker.Datum:
    """The datum whose position i sees token i and is asked for token i + 1.

    So the input is all tokens but the last, targets and weights all but the first: N - 1 of each.
    """
    import tinker  # here: it takes seconds, and counting tokens does not need it

    tokens, weights = list(sequence.tokens), list(sequence.weights)
    return tinker.Datum(
        model_input=tinker.ModelInput.from_ints(tokens[:-1]),
        loss_fn_inputs={
            "target_tokens": tinker.TensorData(
                data=tokens[1:], dtype="int64", shape=[len(tokens) - 1]
            ),
            "weights": tinker.TensorData(
                data=weights[1:], dtype="float32", shape=[len(weights) - 1]
            ),
        },
    )
