from __future__ import annotations

import dataclasses
import math
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from tinsmith.nn.optimizers.adamw import BLOCK, Hyperparameters, adamw_, clip_
from torch import Tensor

HYPER = Hyperparameters(learning_rate=0.03, beta1=0.9, beta2=0.95, eps=1e-8, weight_decay=0.1)
P, STEPS = 20, 12


def start_and_gradients() -> tuple[Tensor, list[Tensor]]:
    g = torch.Generator().manual_seed(0)
    weights = torch.randn(P, generator=g)
    gradients = [torch.randn(P, generator=g) * 10 ** (step % 4 - 2) for step in range(STEPS)]
    gradients[5].zero_()
    return weights, gradients


def ours(max_norm: float) -> Tensor:
    weights, gradients = start_and_gradients()
    m, v = torch.zeros(P), torch.zeros(P)
    for step, gradient in enumerate(gradients, start=1):
        clip_(gradient, max_norm)
        assert adamw_(weights, m, v, gradient, step, HYPER)
    return weights


@pytest.mark.parametrize("max_norm", [0.0, 0.5])
def test_steps_equal_torchs_adamw(max_norm: float) -> None:
    weights, gradients = start_and_gradients()
    parameter = torch.nn.Parameter(weights)
    optimizer = torch.optim.AdamW(
        [parameter], lr=0.03, betas=(0.9, 0.95), eps=1e-8, weight_decay=0.1, foreach=False
    )
    for gradient in gradients:
        parameter.grad = gradient
        if max_norm:
            torch.nn.utils.clip_grad_norm_([parameter], max_norm)
        optimizer.step()
    torch.testing.assert_close(ours(max_norm), parameter.detach(), rtol=1e-6, atol=1e-7)


def test_steps_equal_a_loop_in_double_precision() -> None:
    weights, gradients = start_and_gradients()
    want = []
    for i in range(P):
        w, m, v = float(weights[i]), 0.0, 0.0
        for t, gradient in enumerate(gradients, start=1):
            g = float(gradient[i])
            w -= 0.03 * 0.1 * w
            m = 0.9 * m + 0.1 * g
            v = 0.95 * v + 0.05 * g * g
            w -= 0.03 * (m / (1 - 0.9**t)) / (math.sqrt(v / (1 - 0.95**t)) + 1e-8)
        want.append(w)
    torch.testing.assert_close(ours(0.0), torch.tensor(want), rtol=1e-4, atol=1e-6)


def test_clipping_scales_to_the_limit_and_reports_the_norm_before() -> None:
    gradient = torch.tensor([3.0, 4.0])
    for limit, want in ((2.5, 2.5), (5.0, 5.0), (50.0, 5.0), (0.0, 5.0)):
        scaled = gradient.clone()
        assert float(clip_(scaled, limit)) == 5.0
        assert float(scaled.norm()) == pytest.approx(want, rel=1e-5)


def test_a_step_into_weights_that_are_not_finite_changes_nothing() -> None:
    size = 2 * BLOCK + 5  # the last block is the one that fails
    weights, m, v = torch.ones(size), torch.full((size,), 0.5), torch.full((size,), 0.25)
    gradient = torch.ones(size)
    weights[-1] = 3e38
    m[-1] = -3e38
    before = [tensor.clone() for tensor in (weights, m, v, gradient)]
    steep = dataclasses.replace(HYPER, learning_rate=10.0, weight_decay=0.0)
    assert not adamw_(weights, m, v, gradient, 3, steep)
    for tensor, copy in zip((weights, m, v, gradient), before, strict=True):
        assert torch.equal(tensor, copy)


def test_blocks_leave_no_seam() -> None:
    generator = torch.Generator().manual_seed(0)
    size = BLOCK + 3
    weights, gradient = torch.randn(2, size, generator=generator)
    parameter = torch.nn.Parameter(weights.clone())
    parameter.grad = gradient.clone()
    torch.optim.AdamW([parameter], 0.03, (0.9, 0.95), 1e-8, 0.1, foreach=False).step()
    assert adamw_(weights, torch.zeros(size), torch.zeros(size), gradient, 1, HYPER)
    torch.testing.assert_close(weights, parameter.detach(), rtol=1e-6, atol=1e-7)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA device")
def test_a_gpu_takes_the_same_steps() -> None:
    weights, gradients = start_and_gradients()
    weights, m, v = weights.cuda(), torch.zeros(P).cuda(), torch.zeros(P).cuda()
    for step, gradient in enumerate(gradients, start=1):
        on_gpu = gradient.cuda()
        clip_(on_gpu, 0.5)
        assert adamw_(weights, m, v, on_gpu, step, HYPER)
    torch.testing.assert_close(weights.cpu(), ours(0.5), rtol=1e-5, atol=1e-6)


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="no account of peak memory")
def test_a_step_needs_less_than_one_vector_more() -> None:
    size = 6 * BLOCK
    script = f"""
import resource, torch
from tinsmith.nn.optimizers.adamw import Hyperparameters, adamw_, clip_
hyper = Hyperparameters(learning_rate=1e-3, beta1=0.9, beta2=0.95, eps=1e-8, weight_decay=0.1)
warm = [torch.ones(8) for _ in range(4)]
adamw_(*warm, 1, hyper)
vectors = [torch.full(({size},), 0.5) for _ in range(4)]
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
clip_(vectors[3], 1.0)
adamw_(*vectors, 1, hyper)
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    )
    assert int(done.stdout) * 1024 < 4 * size
