"""How many floating-point operations a LoRA step needs, to hold against what a machine can do.

A multiplication and an addition are two operations. Counted is what the mathematics of one
forward_backward asks for with frozen base weights, not what a program happens to execute:

- a linear layer of I inputs and O outputs: 2 I O a token forward, 2 I O backward for the gradient
  of its input, nothing for the weights' gradient, since there is none: 4 I O;
- its adapter of rank R: 2 R (I + O) forward, as much for the gradient of its input and as much for
  the gradients of A and B: 6 R (I + O);
- attention of H heads of size D: for each pair of a query and a key that it may see, 4 H D forward
  (score, and weighting of the value) and 8 H D backward (gradients of query, key, value and
  score); causal attention over N tokens has N (N + 1) / 2 pairs;
- the output layer of V tokens and hidden size E: 4 E V, only where a token carries weight;
- the query, key and value layers of the first decoder layer need no gradient of their input, as
  nothing below them is trained: 2 I O less for the layer and 2 R I less for its adapter (the
  gradient of its inner width is still needed for A).

Embedding look-ups, norms, rotations, activations, softmax and the optimizer are left out: they
read memory more than they compute. A prefix that examples share is counted for every example that
has it, and the last layer for every token, so that leaving them out shows as speed.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from mail_batches import Batch
from shapes import Shape

WITHOUT_INPUT_GRADIENT = ("q_proj", "k_proj", "v_proj")
"""Of the first decoder layer."""


@dataclass(frozen=True, slots=True)
class Operations:
    base: float
    adapters: float
    attention: float
    output_layer: float

    @property
    def total(self) -> float:
        return self.base + self.adapters + self.attention + self.output_layer


def of_sequences(
    shape: Shape,
    lengths: Iterable[int],
    num_weighted: int,
    rank: int,
    *,
    causal: bool = True,
) -> Operations:
    """Operations of one forward_backward.

    Args:
        lengths: input tokens of each sequence.
        num_weighted: positions of all sequences together that carry weight.
        rank: of an adapter on every linear layer but the output layer.
        causal: False counts every pair of a sequence, as dense attention with a mask computes it.
    """
    lengths = list(lengths)
    tokens = sum(lengths)
    base = adapters = 0
    for number in range(shape.layers):
        for name, (inputs, outputs) in shape.layer_linears.items():
            is_lowest = number == 0 and name in WITHOUT_INPUT_GRADIENT
            base += tokens * inputs * outputs * (2 if is_lowest else 4)
            adapters += tokens * rank * (6 * (inputs + outputs) - (2 * inputs if is_lowest else 0))
    pairs = sum(n * (n + 1) // 2 if causal else n * n for n in lengths)
    return Operations(
        base=base,
        adapters=adapters,
        attention=shape.layers * pairs * 12 * shape.heads * shape.head_dim,
        output_layer=4 * num_weighted * shape.hidden * shape.vocab,
    )


def of_batch(shape: Shape, batch: Batch, rank: int) -> Operations:
    """Of a batch of the mail task: an example of N tokens has N - 1 inputs."""
    return of_sequences(
        shape,
        [len(example.tokens) - 1 for example in batch],
        sum(example.num_weighted for example in batch),
        rank,
    )


def product_rate(dtype: str, device: str, shape: Shape, num_tokens: int) -> float:
    """Floating-point operations a second that matrix products reach here and now: the best of a
    square product of 2,048 (8,192 on a GPU) and the shape's own MLP layer, a few runs of each."""
    import torch

    size = 2048 if device == "cpu" else 8192
    sizes = [(size, size, size), (num_tokens, shape.hidden, shape.intermediate)]
    return max(_rate(getattr(torch, dtype), device, *one) for one in sizes)


def _rate(dtype, device: str, rows: int, inner: int, columns: int) -> float:
    import time

    import torch

    left = torch.randn(rows, inner, device=device).to(dtype)
    right = torch.randn(columns, inner, device=device).to(dtype)
    operations = 2 * rows * inner * columns
    best, spent = 0.0, 0.0
    for _ in range(20):
        started = time.perf_counter()
        torch.nn.functional.linear(left, right)
        if device != "cpu":
            torch.cuda.synchronize()
        seconds = time.perf_counter() - started
        best, spent = max(best, operations / seconds), spent + seconds
        if spent > 1.0:
            break
    return best
