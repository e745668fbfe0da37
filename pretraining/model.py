"""The built-in base model as it starts out: its shape and first weights."""

import torch
from tokenizers import Tokenizer
from transformers import Qwen3Config, Qwen3ForCausalLM

from pretraining.embeddings import topical_embeddings
from pretraining.grammar import Grammar
from pretraining.tokenizer import VOCABULARY_SIZE

FINAL_SCALE = 3.0
"""Start of the final norm's weights. With small tied embeddings a scale of 1 keeps logits so flat
that a short fine-tuning, which cannot change either, never grows sure of anything."""


def model_config(tokenizer: Tokenizer) -> Qwen3Config:
    """The shape: wide rather than deep, since at this size overhead costs more than arithmetic."""
    return Qwen3Config(
        vocab_size=VOCABULARY_SIZE,
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
        eos_token_id=tokenizer.token_to_id("<|im_end|>"),
        pad_token_id=tokenizer.token_to_id("<|endoftext|>"),
        attn_implementation="sdpa",
    )


def new_model(grammar: Grammar, tokenizer: Tokenizer, seed: int) -> Qwen3ForCausalLM:
    """Random weights, but for embeddings that know which tokens occur together."""
    torch.manual_seed(seed)
    config = model_config(tokenizer)
    model = Qwen3ForCausalLM(config)
    topical_VD, has_one_V = topical_embeddings(grammar, tokenizer, seed, config.hidden_size)
    with torch.no_grad():
        weight_VD = model.get_input_embeddings().weight
        mixed_VD = 0.7 * weight_VD + 0.7 * config.initializer_range * topical_VD
        model.model.norm.weight.fill_(FINAL_SCALE)
        weight_VD.copy_(torch.where(has_one_V[:, None], mixed_VD, weight_VD))
    return model
