from __future__ import annotations

import torch
from tinsmith.nn.losses import LOSSES


def test_cross_entropy_is_a_weighted_sum_over_soft_targets_too() -> None:
    logprobs = torch.tensor([[-1.0, -2.0], [-3.0, -4.0]])
    weights = torch.tensor([[0.5, 0.25], [-1.0, 0.0]])
    loss = LOSSES["cross_entropy"].per_token(logprobs, {"weights": weights}, {})
    torch.testing.assert_close(loss, torch.tensor([0.5 + 0.5, -3.0]))


def test_the_gate_of_every_loss_is_one_of_its_inputs() -> None:
    for loss in LOSSES.values():
        assert loss.gate in loss.inputs
