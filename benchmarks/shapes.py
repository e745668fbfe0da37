"""Models of published shapes with random weights: what they have learnt does not change speed."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from transformers import Qwen3Config

MAX_CONTEXT = 40_960


@dataclass(frozen=True, slots=True)
class Shape:
    """A Qwen3 decoder with an output layer that shares the embedding's weights."""

    hidden: int
    layers: int
    intermediate: int
    heads: int
    kv_heads: int
    head_dim: int
    vocab: int

    @property
    def layer_linears(self) -> dict[str, tuple[int, int]]:
        """Inputs and outputs of a decoder layer's linear layers."""
        queries, keys = self.heads * self.head_dim, self.kv_heads * self.head_dim
        return {
            "q_proj": (self.hidden, queries),
            "k_proj": (self.hidden, keys),
            "v_proj": (self.hidden, keys),
            "o_proj": (queries, self.hidden),
            "gate_proj": (self.hidden, self.intermediate),
            "up_proj": (self.hidden, self.intermediate),
            "down_proj": (self.intermediate, self.hidden),
        }

    @property
    def num_parameters(self) -> int:
        """Without the norms, which are a few thousand."""
        per_layer = sum(inputs * outputs for inputs, outputs in self.layer_linears.values())
        return self.layers * per_layer + self.vocab * self.hidden

    def adapter_parameters(self, rank: int) -> int:
        """Of an adapter on all linear layers but the output layer."""
        per_layer = sum(inputs + outputs for inputs, outputs in self.layer_linears.values())
        return self.layers * rank * per_layer

    def config(self) -> Qwen3Config:
        from transformers import Qwen3Config

        return Qwen3Config(
            vocab_size=self.vocab,
            hidden_size=self.hidden,
            intermediate_size=self.intermediate,
            num_hidden_layers=self.layers,
            num_attention_heads=self.heads,
            num_key_value_heads=self.kv_heads,
            head_dim=self.head_dim,
            max_position_embeddings=MAX_CONTEXT,
            tie_word_embeddings=True,
            bos_token_id=None,
            eos_token_id=0,
            pad_token_id=0,
        )


QWEN3_0_6B = Shape(1024, 28, 3072, 16, 8, 128, 151_936)
SHAPES = {
    "qwen3-266m": replace(QWEN3_0_6B, layers=7),
    "qwen3-0.6b": QWEN3_0_6B,
    "qwen3-4b": Shape(2560, 36, 9728, 32, 8, 128, 151_936),
    "small": Shape(256, 4, 768, 4, 2, 64, 8192),
    "negligible": Shape(32, 1, 64, 2, 1, 16, 256),
}


def write_model(shape: Shape, folder: Path, dtype: str) -> Path:
    """The shape in Hugging Face layout: config, safetensors and a tokenizer of single bytes.

    Args:
        dtype: torch's name for the precision of the weights on disk.
    """
    import torch
    from transformers import AutoModelForCausalLM

    torch.manual_seed(0)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    with torch.device(device):
        model = AutoModelForCausalLM.from_config(shape.config(), dtype=getattr(torch, dtype))
    model.save_pretrained(folder)
    byte_tokenizer().save_pretrained(folder)
    return folder


def byte_tokenizer():
    """Enough of a tokenizer for a trainer that insists on one; the data is token ids already."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    alphabet = ["<|end|>", *sorted(pre_tokenizers.ByteLevel.alphabet())]
    tokenizer = Tokenizer(models.BPE({text: i for i, text in enumerate(alphabet)}, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, eos_token="<|end|>", pad_token="<|end|>"
    )
