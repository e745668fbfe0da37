"""How many numbers an adapter trains, from the base model's published shape."""

from __future__ import annotations

from typing import Any


def trainable_parameters(config: Any, rank: int, *, train_unembed: bool) -> int | None:
    """Size of A and B of all adapted layers, or None for a shape that this does not know.

    Knows decoder blocks of separate query, key, value and output projections and a gated MLP:
    Llama, Qwen 2 and 3, Mistral, Gemma, SmolLM and their like.

    Args:
        config: the model's transformers configuration.
    """
    config = getattr(config, "text_config", None) or config
    if getattr(config, "num_experts", None) or getattr(config, "num_local_experts", None):
        return None
    try:
        hidden, mlp = config.hidden_size, config.intermediate_size
        heads, num_layers = config.num_attention_heads, config.num_hidden_layers
        head_size = getattr(config, "head_dim", None) or hidden // heads
        queries = heads * head_size
        keys = (getattr(config, "num_key_value_heads", None) or heads) * head_size
        attention = [(hidden, queries), (hidden, keys), (hidden, keys), (queries, hidden)]
        gated_mlp = [(hidden, mlp), (hidden, mlp), (mlp, hidden)]
        per_layer = sum(inputs + outputs for inputs, outputs in attention + gated_mlp)
        unembed = hidden + config.vocab_size if train_unembed else 0
    except (AttributeError, TypeError):
        return None
    return rank * (num_layers * per_layer + unembed)
