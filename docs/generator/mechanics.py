"""Every number of "How fine-tuning works", computed by running the real code.

Each function is a section of the page; its result is JSON-ready. All are cheap but `trained`,
which looks at what a whole training has left behind.
"""

from __future__ import annotations

import math
from dataclasses import asdict
from typing import Any

import numpy as np
import torch
from mailroom.config import REFERENCE_BASE_MODEL
from mailroom.training.adapter_size import trainable_parameters
from tinsmith.domain.ops import LORA_ALPHA, AdamParams
from tinsmith.engine.adapter import AdapterState
from transformers import Qwen3Config, Qwen3ForCausalLM

from generator.bench import LEARNING_RATE, RANK, Bench, forward_backward, gradient_of, part, step

NUM_COPIES = 4
ADAM_STEPS = 3
RANKS = (1, 8, 32, 128)
SCATTER_POINTS = 240


def example(bench: Bench) -> dict[str, Any]:
    """One labelled mail as tokens and weights, and what the untrained model makes of it."""
    sequence = bench.encode(bench.shown)
    datum = bench.datum(bench.shown)
    done = forward_backward(bench.trainer(), [datum])
    weights_N = datum.loss_fn_inputs["weights"]
    targets_N = datum.loss_fn_inputs["target_tokens"]
    num_prompt = len(sequence.tokens) - sequence.num_weighted
    loss_sum = done.metrics["loss:sum"]
    by_hand = -sum(float(w) * float(p) for w, p in zip(weights_N, done.logprobs[0], strict=True))
    positions = [
        {
            "input": bench.text(int(token)),
            "target": bench.text(int(target)),
            "weight": float(weight),
            "logprob": float(logprob),
            "probability": math.exp(float(logprob)),
        }
        for token, target, weight, logprob in zip(
            datum.tokens, targets_N, weights_N, done.logprobs[0], strict=True
        )
    ]
    return {
        "subject": bench.shown.message.subject,
        "category": bench.shown.category,
        "num_tokens": len(sequence.tokens),
        "num_prompt": num_prompt,
        "num_completion": sequence.num_weighted,
        "num_positions": len(datum.tokens),
        "eos": bench.text(sequence.tokens[-1]),
        "positions": positions,
        "loss_sum": loss_sum,
        "loss_sum_by_hand": by_hand,
        "loss_mean": loss_sum / float(weights_N.sum()),
        "uniform": math.log(bench.base.vocab_size),
        "vocab_size": bench.base.vocab_size,
    }


def start(bench: Bench) -> dict[str, Any]:
    """Why A has no gradient at first: it reaches A through B, and B is zero."""
    trainer, batch = bench.trainer(), bench.batch()
    rows = []
    for _ in range(2):
        forward_backward(trainer, batch)
        gradient_P = gradient_of(trainer)
        weights_P = trainer.state.adapter.weights_P
        rows.append(
            {
                "norm_a": float(part(trainer, weights_P, "A").norm()),
                "norm_b": float(part(trainer, weights_P, "B").norm()),
                "gradient_a": float(part(trainer, gradient_P, "A").norm()),
                "gradient_b": float(part(trainer, gradient_P, "B").norm()),
            }
        )
        step(trainer)
    return {"before": rows[0], "after_one_step": rows[1]}


def copies(bench: Bench) -> dict[str, Any]:
    """A batch of four copies against one: the gradient is a sum, and what Adam makes of that."""
    datum = bench.datum(bench.shown)
    losses, gradients, moved = [], [], []
    for data in ([datum], [datum] * NUM_COPIES):
        trainer = bench.trainer()
        losses.append(forward_backward(trainer, data).metrics["loss:sum"])
        gradients.append(gradient_of(trainer))
        before_P = trainer.state.adapter.weights_P.clone()
        step(trainer)
        moved.append(trainer.state.adapter.weights_P - before_P)
    one_P, four_P = gradients
    return {
        "num_copies": NUM_COPIES,
        "loss_one": losses[0],
        "loss_copies": losses[1],
        "norm_one": float(one_P.norm()),
        "norm_copies": float(four_P.norm()),
        "ratio": float(four_P.norm() / one_P.norm()),
        "gradient_deviation": float((four_P - NUM_COPIES * one_P).norm() / four_P.norm()),
        "step_ratio": float(moved[1].norm() / moved[0].norm()),
        "step_deviation": float((moved[1] - moved[0]).norm() / moved[0].norm()),
    }


def adam(bench: Bench) -> dict[str, Any]:
    """The first steps of one weight, by the engine and by hand in float64."""
    trainer, batch = bench.trainer(), bench.batch()
    state, defaults = trainer.state, AdamParams(learning_rate=LEARNING_RATE)
    forward_backward(trainer, batch)
    place = int(gradient_of(trainer).abs().argmax())
    weight = float(state.adapter.weights_P[place])
    exp_avg = exp_avg_sq = 0.0
    rows, scatter = [], []
    for t in range(1, ADAM_STEPS + 1):
        gradient_P, before_P = gradient_of(trainer), state.adapter.weights_P.clone()
        gradient = float(gradient_P[place])
        exp_avg = defaults.beta1 * exp_avg + (1 - defaults.beta1) * gradient
        exp_avg_sq = defaults.beta2 * exp_avg_sq + (1 - defaults.beta2) * gradient**2
        mean = exp_avg / (1 - defaults.beta1**t)
        square = exp_avg_sq / (1 - defaults.beta2**t)
        update = -LEARNING_RATE * mean / (math.sqrt(square) + defaults.eps)
        weight += update
        step(trainer)
        moved_P = state.adapter.weights_P - before_P
        rows.append(
            {
                "step": t,
                "gradient": gradient,
                "exp_avg": exp_avg,
                "exp_avg_sq": exp_avg_sq,
                "mean": mean,
                "root": math.sqrt(square),
                "update": update,
                "weight": weight,
                "weight_engine": float(state.adapter.weights_P[place]),
            }
        )
        scatter.append(_scatter(trainer, gradient_P, moved_P))
        forward_backward(trainer, batch)
    first = scatter[0]
    return {
        "learning_rate": LEARNING_RATE,
        "beta1": defaults.beta1,
        "beta2": defaults.beta2,
        "eps": defaults.eps,
        "parameter": next(p.name for p in state.layout.parameters if p.start <= place < p.stop),
        "rows": rows,
        "deviation": max(abs(r["weight"] - r["weight_engine"]) for r in rows),
        "share_moved_by_rate": first["share_by_rate"],
        "smallest_gradient": first["smallest"],
        "largest_gradient": first["largest"],
        "scatter": [s["points"] for s in scatter],
    }


def _scatter(trainer: Any, gradient_P: torch.Tensor, moved_P: torch.Tensor) -> dict[str, Any]:
    """|gradient| and |step| of B's entries, thinned out evenly."""
    gradient_M = part(trainer, gradient_P, "B").abs()
    moved_M = part(trainer, moved_P, "B").abs()
    places = torch.linspace(0, len(gradient_M) - 1, SCATTER_POINTS).long()
    by_rate = (moved_M / LEARNING_RATE - 1).abs() < 1e-3
    return {
        "points": [[float(gradient_M[i]), float(moved_M[i])] for i in places],
        "share_by_rate": float(by_rate.float().mean()),
        "smallest": float(gradient_M[gradient_M > 0].min()),
        "largest": float(gradient_M.max()),
    }


def ranks(bench: Bench) -> list[dict[str, Any]]:
    """What changes with the rank, everything else equal: size, scale, and the first step.

    `promised` is how much the loss would fall if it were a straight line: each entry moves by the
    learning rate against its gradient, so rate times the sum of absolute gradients.
    """
    rows, batch = [], bench.batch()
    for rank in RANKS:
        trainer = bench.trainer(rank)
        layout = trainer.state.layout
        before = forward_backward(trainer, batch).metrics["loss:sum"]
        promised = LEARNING_RATE * float(gradient_of(trainer).abs().sum())
        step(trainer)
        after = forward_backward(trainer, batch, forward_only=True).metrics["loss:sum"]
        ratios = _relative_changes(bench, trainer.state.adapter)
        rows.append(
            {
                "rank": rank,
                "scale": layout.scale,
                "parameters": layout.size,
                "bytes": 4 * layout.size,
                "change": float(np.mean(ratios)),
                "promised": promised,
                "loss_before": before,
                "loss_after": after,
            }
        )
    return rows


def _relative_changes(bench: Bench, adapter: AdapterState) -> list[float]:
    """|scale B A| / |W| of each adapted layer."""
    ratios = []
    for target, pair in zip(bench.base.targets, adapter.pairs, strict=True):
        if pair is not None:
            a_RI, b_OR = pair[0].detach(), pair[1].detach()
            weight_OI = bench.base.model.get_submodule(target.path).weight
            delta_OI = adapter.layout.scale * (b_OR @ a_RI)
            ratios.append(float(delta_OI.norm() / weight_OI.norm()))
    return ratios


def shape(bench: Bench) -> dict[str, Any]:
    """How large the base model, one of its layers and its adapter are."""
    layout = bench.trainer().state.layout
    target = layout.targets[0]
    return {
        "base_parameters": sum(p.numel() for p in bench.base.model.parameters()),
        "rank": RANK,
        "alpha": LORA_ALPHA,
        "num_adapted": len(layout.targets),
        "trainable": layout.size,
        "layer": asdict(target) | {"part": target.part.value},
        "layer_weights": target.num_inputs * target.num_outputs,
        "layer_a": RANK * target.num_inputs,
        "layer_b": RANK * target.num_outputs,
    }


def trained(bench: Bench, adapter: AdapterState) -> dict[str, Any]:
    """What a whole training has made of A, B and their product."""
    first = bench.trainer(adapter.layout.lora.rank).state.adapter
    rows = []
    for target, start, pair in zip(bench.base.targets, first.pairs, adapter.pairs, strict=True):
        if start is None or pair is None:
            continue
        a_RI, b_OR = pair[0].detach(), pair[1].detach()
        weight_OI = bench.base.model.get_submodule(target.path).weight
        delta_OI = adapter.layout.scale * (b_OR @ a_RI)
        energy_R = torch.linalg.svdvals(delta_OI)[: adapter.layout.lora.rank] ** 2
        share_R = energy_R.cumsum(0) / energy_R.sum()
        rows.append(
            {
                "path": target.path,
                "kind": target.path.rpartition(".")[2],
                "norm_w": float(weight_OI.norm()),
                "norm_a_start": float(start[0].norm()),
                "norm_a": float(a_RI.norm()),
                "norm_b": float(b_OR.norm()),
                "norm_delta": float(delta_OI.norm()),
                "ratio": float(delta_OI.norm() / weight_OI.norm()),
                "directions_90": int((share_R < 0.9).sum()) + 1,
            }
        )
    kinds = {
        kind: float(np.mean([row["ratio"] for row in rows if row["kind"] == kind]))
        for kind in dict.fromkeys(row["kind"] for row in rows)
    }
    return {"layers": rows, "kinds": kinds}


def reference_model() -> dict[str, Any]:
    """Qwen3-4B's published shape, and what an adapter on it comes to."""
    config = Qwen3Config(
        vocab_size=151_936,
        hidden_size=2560,
        intermediate_size=9728,
        num_hidden_layers=36,
        num_attention_heads=32,
        num_key_value_heads=8,
        head_dim=128,
        tie_word_embeddings=True,
    )
    with torch.device("meta"):  # shapes without memory
        model = Qwen3ForCausalLM(config)
    return {
        "name": REFERENCE_BASE_MODEL,
        "activation": config.hidden_act,
        "mlp_layers": [name for name, _ in model.model.layers[0].mlp.named_children()],
        "hidden_size": config.hidden_size,
        "intermediate_size": config.intermediate_size,
        "num_layers": config.num_hidden_layers,
        "num_heads": config.num_attention_heads,
        "num_key_value_heads": config.num_key_value_heads,
        "head_dim": config.head_dim,
        "query_width": config.num_attention_heads * config.head_dim,
        "parameters": model.num_parameters(),
        "trainable": trainable_parameters(config, RANK, train_unembed=False),
        "trainable_with_output": trainable_parameters(config, RANK, train_unembed=True),
    }
