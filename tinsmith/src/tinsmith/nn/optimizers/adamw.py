"""AdamW on flat vectors, in place and all or nothing.

Method: Loshchilov and Hutter, "Decoupled Weight Decay Regularization", 2019, algorithm 2, with
the bias corrections of Kingma and Ba, "Adam", 2015, algorithm 1. The arithmetic is torch's fused
kernel, which reads and writes each vector once where a chain of tensor operations would do so a
dozen times.

Shape suffixes: P all parameters, B parameters of one block.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.optim.adamw import adamw

BLOCK = 1 << 20
"""Parameters that a rehearsal looks at together: 12 MiB of copies, whatever the adapter's size."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Hyperparameters:
    learning_rate: float
    beta1: float
    beta2: float
    eps: float
    weight_decay: float


def clip_(gradient_P: Tensor, max_norm: float) -> Tensor:
    """Scale the gradient in place so that its norm is at most max_norm (0: as it is); the norm it
    had, fp32 scalar. As torch.nn.utils.clip_grad_norm_, over all parameters together."""
    norm = torch.linalg.vector_norm(gradient_P)
    if max_norm != 0:
        gradient_P.mul_((max_norm / (norm + 1e-6)).clamp(max=1.0))
    return norm


@torch.no_grad()
def adamw_(
    weights_P: Tensor,
    exp_avg_P: Tensor,
    exp_avg_sq_P: Tensor,
    gradient_P: Tensor,
    step: int,
    hyper: Hyperparameters,
) -> bool:
    """One step in place; False, with nothing changed, if it would leave weights that are not
    finite.

    The step is rehearsed on copies, block by block, before it is taken: a second pass over the
    vectors costs less than a second set of them.

    Args:
        step: the number of this step, from 1 on.
    """
    vectors = (weights_P, exp_avg_P, exp_avg_sq_P)
    scratch = weights_P.new_empty(len(vectors), min(BLOCK, len(weights_P)))
    # One number to look at: whatever is not finite makes the sum so.
    total = weights_P.new_zeros(())
    for start in range(0, len(weights_P), BLOCK):
        gradient_B = gradient_P[start : start + BLOCK]
        weights_B, exp_avg_B, exp_avg_sq_B = scratch[:, : len(gradient_B)].unbind()
        for copy_B, vector_P in zip((weights_B, exp_avg_B, exp_avg_sq_B), vectors, strict=True):
            copy_B.copy_(vector_P[start : start + BLOCK])
        _step_(weights_B, exp_avg_B, exp_avg_sq_B, gradient_B, step, hyper)
        total += weights_B.sum()
    if not math.isfinite(float(total)):
        return False
    _step_(*vectors, gradient_P, step, hyper)
    return True


def _step_(
    weights_B: Tensor,
    exp_avg_B: Tensor,
    exp_avg_sq_B: Tensor,
    gradient_B: Tensor,
    step: int,
    hyper: Hyperparameters,
) -> None:
    adamw(
        [weights_B],
        [gradient_B],
        [exp_avg_B],
        [exp_avg_sq_B],
        max_exp_avg_sqs=[],
        state_steps=[torch.tensor(step - 1.0, device=weights_B.device)],  # counted up by torch
        fused=True,
        amsgrad=False,
        maximize=False,
        lr=hyper.learning_rate,
        beta1=hyper.beta1,
        beta2=hyper.beta2,
        eps=hyper.eps,
        weight_decay=hyper.weight_decay,
    )
