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


@torch.no_grad()
def rescale_for_adapters(model: Qwen3ForCausalLM, into_layers: float, residual: float) -> None:
    """Give adapters more leverage on a trained model without changing what it computes.

    A pre-norm transformer has scales that cancel out: a norm's weight against the matrices that
    read its output, and the size of all that is added to the residual stream, which every norm
    divides out again. Muon leaves large matrices, beside which an adapter of the usual size and
    learning rate is small. With larger norms and smaller matrices the same adapter weighs more.

    Args:
        into_layers: how much larger the layers' norm weights become, and how much smaller the
            matrices after them. A power of two costs no precision.
        residual: how much smaller everything becomes that is added to the residual stream. Only
            the norms' epsilon makes a difference to the output, in the fourth digit.
    """
    for layer in model.model.layers:
        attention, mlp = layer.self_attn, layer.mlp
        for norm in (layer.input_layernorm, layer.post_attention_layernorm):
            norm.weight.mul_(into_layers)
        for linear in (
            attention.q_proj,
            attention.k_proj,
            attention.v_proj,
            mlp.gate_proj,
            mlp.up_proj,
        ):
            linear.weight.div_(into_layers)
        for linear in (attention.o_proj, mlp.down_proj):
            linear.weight.div_(residual)
    model.get_input_embeddings().weight.div_(residual)
    model.model.norm.weight.mul_(residual)  # the output layer is the embeddings, now smaller
