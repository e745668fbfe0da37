"""Rotary positions and their gradient.

Shape suffixes: N tokens, H heads, D head dimension.
"""

from __future__ import annotations

from torch import Tensor


def rotate(x_NHD: Tensor, cos_ND: Tensor, sin_ND: Tensor) -> Tensor:
    """Rotary positions: the halves of each head turn by the position's angles.

    Method: Su et al., "RoFormer", 2021, section 3.2, on halves as Llama lays them out.
    """
    half = x_NHD.shape[-1] // 2
    cos_N1D, sin_N1D = cos_ND[:, None], sin_ND[:, None]
    out_NHD = x_NHD * cos_N1D
    out_NHD[..., :half].addcmul_(x_NHD[..., half:], sin_N1D[..., :half], value=-1.0)
    out_NHD[..., half:].addcmul_(x_NHD[..., :half], sin_N1D[..., half:])
    return out_NHD


def rotate_gradient(grad_NHD: Tensor, cos_ND: Tensor, sin_ND: Tensor) -> Tensor:
    """The gradient of `rotate` for x: its transpose."""
    half = grad_NHD.shape[-1] // 2
    cos_N1D, sin_N1D = cos_ND[:, None], sin_ND[:, None]
    out_NHD = grad_NHD * cos_N1D
    out_NHD[..., :half].addcmul_(grad_NHD[..., half:], sin_N1D[..., half:])
    out_NHD[..., half:].addcmul_(grad_NHD[..., :half], sin_N1D[..., :half], value=-1.0)
    return out_NHD
