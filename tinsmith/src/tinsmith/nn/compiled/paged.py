"""Attention by itself, for decode steps of which the rest is left to torch.

Shape suffixes: B rows, H query heads, K key heads, N blocks of a row, D head dimension.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from tinsmith.nn.compiled.buffers import Buffers, Scratch
from tinsmith.nn.compiled.kernels import kernels
from tinsmith.nn.compiled.team import Team


class PagedAttention:
    """In as many threads as torch takes at the time of a call. Not thread-safe."""

    def __init__(self) -> None:
        self._buffers = Buffers()
        self._team: Team | None = None
        self._scratch: tuple[tuple[int, int, int], Scratch] | None = None

    @staticmethod
    def supports(q_BHD: Tensor) -> bool:
        """Whether queries of this kind are among those that this is made for."""
        is_plain = q_BHD.device.type == "cpu" and q_BHD.dtype == torch.float32
        return is_plain and q_BHD.shape[2] % 4 == 0 and not torch.is_grad_enabled()

    def __call__(
        self,
        q_BHD: Tensor,
        k_BKD: Tensor,
        v_BKD: Tensor,
        keys: Tensor,
        values: Tensor,
        tables_BN: NDArray[np.int32],
        position_B: NDArray[np.int64],
        scaling: float,
        window: int | None,
    ) -> Tensor:
        """Store the new keys and values, and attend.

        Args:
            q_BHD, k_BKD: normalised and rotated.
            keys, values: of the layer, contiguous [blocks, K, BLOCK, D].
            tables_BN: each row's blocks in order, the new token's included.
            position_B: of the new tokens; a row sees all up to it, or the latest `window`.

        Returns:
            [B, H, D].
        """
        (num_rows, num_queries, head_dim), num_keys = q_BHD.shape, k_BKD.shape[1]
        team, scratch = self._gathered(num_queries // num_keys, head_dim)
        scratch.reserve(int(position_B.max()) + 1)
        rows = self._buffers.rows
        qkv = rows("qkv", num_rows, (num_queries + 2 * num_keys) * head_dim)
        start = 0
        for part in (q_BHD, k_BKD, v_BKD):
            width = part.shape[1] * head_dim
            held = torch.from_numpy(qkv)[:num_rows, start : start + width]
            held.unflatten(1, (-1, head_dim)).copy_(part)
            start += width
        seen = rows("seen", num_rows, num_queries * head_dim)
        unturned = np.ones((num_rows, head_dim), dtype=np.float32)
        team.run(
            kernels().attend,
            1,
            (qkv, np.array([num_queries, num_keys, head_dim])),
            (np.zeros(2, dtype=np.int64), np.zeros(2, dtype=np.float32)),
            (np.float32(scaling), np.int64(window or 0)),
            (unturned, np.zeros_like(unturned)),
            (keys.data_ptr(), values.data_ptr()),
            (np.ascontiguousarray(tables_BN), position_B),
            (scratch.heads, scratch.scores),
            seen,
        )
        seen_BA = torch.from_numpy(seen)[:num_rows, : num_queries * head_dim]
        return seen_BA.clone().unflatten(1, (num_queries, head_dim))

    def _gathered(self, group: int, head_dim: int) -> tuple[Team, Scratch]:
        """The team, and its threads' scratch memory for heads of this kind."""
        num_threads = torch.get_num_threads()
        if self._team is None or self._team.num_threads != num_threads:
            self._team = Team(num_threads)
        kind = (num_threads, group, head_dim)
        if self._scratch is None or self._scratch[0] != kind:
            self._scratch = kind, Scratch(*kind)
        return self._team, self._scratch[1]
