from __future__ import annotations

import torch
from tinsmith.nn.context import ForwardContext, Segment
from tinsmith.nn.experts import AdapterExperts, has_known_layout
from torch import Tensor
from transformers import MixtralConfig, Qwen3MoeConfig
from transformers.models.gpt_oss.configuration_gpt_oss import GptOssConfig
from transformers.models.gpt_oss.modeling_gpt_oss import GptOssExperts
from transformers.models.mixtral.modeling_mixtral import MixtralExperts
from transformers.models.qwen3_moe.modeling_qwen3_moe import Qwen3MoeExperts

E, H, F, T = 4, 6, 5, 9


def experts() -> Qwen3MoeExperts:
    module = Qwen3MoeExperts(
        Qwen3MoeConfig(hidden_size=H, moe_intermediate_size=F, num_experts=E, hidden_act="silu")
    )
    generator = torch.Generator().manual_seed(0)
    for parameter in module.parameters():
        parameter.data = torch.randn(parameter.shape, generator=generator)
        parameter.requires_grad_(False)
    return module


def adapter(rank: int, seed: int) -> list[tuple[Tensor, Tensor]]:
    generator = torch.Generator().manual_seed(seed)
    shapes = [(rank * E, H), (2 * F, rank * E), (rank * E, F), (H, rank * E)]
    a, b, c, d = (torch.randn(shape, generator=generator).requires_grad_() for shape in shapes)
    return [(a, b), (c, d)]


def token_by_token(
    module: Qwen3MoeExperts, x_TH: Tensor, expert_TK: Tensor, share_TK: Tensor, segments: list
) -> Tensor:
    """PEFT's definition of the stacked deltas (ParamWrapper.get_delta_weight), one token at a
    time with whole weights."""
    rows = []
    for t, x_H in enumerate(x_TH):
        weights = [module.gate_up_proj, module.down_proj]
        for segment in segments:
            if segment.start <= t < segment.stop:
                for i, (a, b) in enumerate(segment.pairs):
                    a_ERI = a.reshape(E, -1, a.shape[1])
                    b_ORE = b.reshape(b.shape[0], -1, E)
                    delta = torch.einsum("ore,eri->eoi", b_ORE, a_ERI)
                    weights[i] = weights[i] + segment.scale * delta
        y_H = torch.zeros(H)
        for expert, share in zip(expert_TK[t].tolist(), share_TK[t], strict=True):
            gate, up = (weights[0][expert] @ x_H).chunk(2)
            y_H = y_H + share * (weights[1][expert] @ (torch.nn.functional.silu(gate) * up))
        rows.append(y_H)
    return torch.stack(rows)


def test_each_token_goes_through_its_experts_with_its_own_adapter() -> None:
    module, context = experts(), ForwardContext()
    generator = torch.Generator().manual_seed(1)
    x_TH = torch.randn(T, H, generator=generator).requires_grad_()
    # The last expert gets no token at all.
    expert_TK = torch.stack([torch.randperm(E - 1, generator=generator)[:2] for _ in range(T)])
    share_TK = torch.rand(T, 2, generator=generator).requires_grad_()
    first, second = adapter(2, 2), adapter(3, 3)
    # A token before, one between and one after have no adapter; ranks and scales differ.
    segments = [Segment(first, 0.5, 1, 4), Segment(second, 2.0, 5, 8)]
    leaves = [x_TH, share_TK, *(t for pair in first + second for t in pair)]
    grad_TH = torch.randn(T, H, generator=generator)

    wanted = token_by_token(module, x_TH, expert_TK, share_TK, segments)
    wanted_grads = torch.autograd.grad(wanted, leaves, grad_TH)
    with context.running(tuple(segments), None):
        ours = AdapterExperts(module, 0, context)(x_TH, expert_TK, share_TK)
    grads = torch.autograd.grad(ours, leaves, grad_TH)

    torch.testing.assert_close(ours, wanted, rtol=1e-4, atol=1e-4)
    for grad, want in zip(grads, wanted_grads, strict=True):
        torch.testing.assert_close(grad, want, rtol=1e-4, atol=1e-4)


def test_without_an_adapter_the_experts_are_transformers_own() -> None:
    module, context = experts(), ForwardContext()
    generator = torch.Generator().manual_seed(1)
    x_TH = torch.randn(T, H, generator=generator)
    expert_TK = torch.stack([torch.randperm(E, generator=generator)[:2] for _ in range(T)])
    share_TK = torch.rand(T, 2, generator=generator)
    ours = AdapterExperts(module, 0, context)(x_TH, expert_TK, share_TK)
    torch.testing.assert_close(ours, module(x_TH, expert_TK, share_TK), rtol=1e-4, atol=1e-4)


def test_only_experts_of_one_layout_are_taken() -> None:
    config = {"hidden_size": H, "intermediate_size": F, "num_local_experts": E}
    assert has_known_layout(experts())
    assert has_known_layout(MixtralExperts(MixtralConfig(**config)))
    assert not has_known_layout(GptOssExperts(GptOssConfig(**config)))  # biases, interleaved
    assert not has_known_layout(torch.nn.Linear(H, H))
