"""Root mean square normalisation and its gradient, computed in fp32 whatever the dtype.

Method: Zhang and Sennrich, "Root Mean Square Layer Normalization", 2019, equation 4.
"""

from __future__ import annotations

from torch import Tensor


def rms_norm(x: Tensor, weight: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    """Normalise over the last dimension.

    Returns:
        the result in x's dtype, and 1 / rms in fp32 with a last dimension of 1.
    """
    x32 = x.float()
    rstd = x32.square().mean(dim=-1, keepdim=True).add_(eps).rsqrt_()
    return (x32 * rstd).to(x.dtype).mul_(weight), rstd


def rms_norm_gradient(grad: Tensor, x: Tensor, rstd: Tensor, weight: Tensor) -> Tensor:
    """The gradient for x, in x's dtype; none for the weight, which is frozen."""
    x32, grad32 = x.float(), (grad * weight).float()
    share = (grad32 * x32).mean(dim=-1, keepdim=True).mul_(rstd.square())
    return grad32.addcmul_(x32, share, value=-1.0).mul_(rstd).to(x.dtype)


def normalised(x: Tensor, rstd: Tensor, weight: Tensor) -> Tensor:
    """rms_norm's result again, from what it returned."""
    return (x.float() * rstd).to(x.dtype).mul_(weight)
