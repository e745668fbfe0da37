"""AdamW on flat vectors, equal to torch.optim.AdamW.

Method: Loshchilov and Hutter, "Decoupled Weight Decay Regularization", 2019, algorithm 2, with
the bias corrections of Kingma and Ba, "Adam", 2015, algorithm 1.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True, slots=True, kw_only=True)
class Hyperparameters:
    learning_rate: float
    beta1: float
    beta2: float
    eps: float
    weight_decay: float


def clipped(gradient_P: Tensor, max_norm: float) -> tuple[Tensor, Tensor]:
    """The gradient, scaled so that its norm is at most max_norm (0: as it is), and the norm it
    had, fp32 scalar. As torch.nn.utils.clip_grad_norm_, over all parameters together."""
    norm = torch.linalg.vector_norm(gradient_P)
    if max_norm == 0:
        return gradient_P, norm
    return gradient_P * (max_norm / (norm + 1e-6)).clamp(max=1.0), norm


def adamw(
    weights_P: Tensor,
    exp_avg_P: Tensor,
    exp_avg_sq_P: Tensor,
    gradient_P: Tensor,
    step: int,
    hyper: Hyperparameters,
) -> tuple[Tensor, Tensor, Tensor]:
    """One step; the arguments stay as they are, so a caller may still refuse the result.

    Args:
        step: the number of this step, from 1 on.

    Returns:
        The new weights, exp_avg and exp_avg_sq.
    """
    exp_avg_P = exp_avg_P.lerp(gradient_P, 1 - hyper.beta1)
    exp_avg_sq_P = (exp_avg_sq_P * hyper.beta2).addcmul_(
        gradient_P, gradient_P, value=1 - hyper.beta2
    )
    correction1, correction2 = 1 - hyper.beta1**step, 1 - hyper.beta2**step
    denominator_P = (exp_avg_sq_P.sqrt() / math.sqrt(correction2)).add_(hyper.eps)
    decayed_P = weights_P * (1 - hyper.learning_rate * hyper.weight_decay)
    new_P = decayed_P.addcdiv_(exp_avg_P, denominator_P, value=-hyper.learning_rate / correction1)
    return new_P, exp_avg_P, exp_avg_sq_P
