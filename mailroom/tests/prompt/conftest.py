"""Three families of tokenizers, small enough to train within a test run."""

from __future__ import annotations

import pytest
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

TEXT = [
    "You are an efficient admin assistant. Analyze this incoming email step-by-step.",
    "Step 1: Classification → Spam\nStep 2: Priority → Low, Medium, High",
    "Step 3: Suggested actions → Delete or mark as spam; no reply needed",
    "Step 4: Drafted response → No response required. Marking as spam/promotion.",
    "> Subject: Lunch on Friday?\n> Shall we meet at 12:30, Verify_code Updates Forum",
    "abcdefghijklmnopqrstuvwxyz ABCDEFGHIJKLMNOPQRSTUVWXYZ 0123456789 .,;:!?'()[]<>|_-/→\n",
]

CHATML = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n"
    "{% if not enable_thinking | default(true) %}<think>\n\n</think>\n\n{% endif %}{% endif %}"
)
HEADERS = (
    "{{ bos_token }}{% for m in messages %}"
    "{% if m.role == 'system' %}{{ raise_exception('no system turn') }}{% endif %}"
    "<|start|>{{ m.role }}<|end|>\n\n{{ m.content | trim }}<|eot|>{% endfor %}"
    "{% if add_generation_prompt %}<|start|>assistant<|end|>\n\n{% endif %}"
)


def _byte_level(special: list[str]) -> Tokenizer:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=500,
        special_tokens=special,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(TEXT, trainer)
    return tokenizer


def byte_level_with_chat_template() -> PreTrainedTokenizerFast:
    """As Qwen3 has it, with added tokens that are not called special."""
    backend = _byte_level(["<|endoftext|>", "<|im_start|>", "<|im_end|>"])
    backend.add_tokens([AddedToken(t, special=False) for t in ("<think>", "</think>")])
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=backend, eos_token="<|im_end|>", pad_token="<|endoftext|>"
    )
    tokenizer.chat_template = CHATML
    return tokenizer


def byte_level_with_bos() -> PreTrainedTokenizerFast:
    """As Llama 3 has it: BOS from the template and again from the tokenizer; no system turn."""
    backend = _byte_level(["<|bos|>", "<|start|>", "<|end|>", "<|eot|>"])
    backend.post_processor = processors.TemplateProcessing(
        single="<|bos|> $A", special_tokens=[("<|bos|>", 0)]
    )
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=backend, bos_token="<|bos|>", eos_token="<|eot|>"
    )
    tokenizer.chat_template = HEADERS
    return tokenizer


def unigram_without_chat_template() -> PreTrainedTokenizerFast:
    """As SentencePiece makes them: `▁` for spaces, unknown characters, BOS and EOS by default."""
    backend = Tokenizer(models.Unigram())
    backend.pre_tokenizer = pre_tokenizers.Metaspace()
    backend.decoder = decoders.Metaspace()
    trainer = trainers.UnigramTrainer(
        vocab_size=220,
        special_tokens=["<unk>", "<s>", "</s>"],
        unk_token="<unk>",
        show_progress=False,
    )
    backend.train_from_iterator(TEXT, trainer)
    backend.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", special_tokens=[("<s>", 1), ("</s>", 2)]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=backend, bos_token="<s>", eos_token="</s>", unk_token="<unk>"
    )


FAMILIES = {
    "byte-level with chat template": byte_level_with_chat_template,
    "byte-level with BOS": byte_level_with_bos,
    "unigram without chat template": unigram_without_chat_template,
}


@pytest.fixture(scope="session", params=FAMILIES)
def family(request):
    """One tokenizer of each family."""
    return FAMILIES[request.param]()


@pytest.fixture(scope="session")
def chatml():
    return byte_level_with_chat_template()


@pytest.fixture(scope="session")
def with_bos():
    return byte_level_with_bos()


@pytest.fixture(scope="session")
def unigram():
    return unigram_without_chat_template()
