"""Bad batches and steps are refused with the place, the value and what is allowed."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from tinsmith.domain.datum import Datum
from tinsmith.domain.errors import InvalidInputError
from tinsmith.domain.model_limits import ModelLimits
from tinsmith.domain.ops import AdamParams, ForwardBackward
from tinsmith.domain.training_rules import check_adam, check_forward_backward
from tinsmith.nn.losses import LOSSES

LIMITS = ModelLimits(vocab_size=100, max_context=16)


def check(op: ForwardBackward) -> None:
    check_forward_backward(op, LIMITS, LOSSES)


def datum(tokens: Any = (1, 2, 3), drop: str = "", **inputs: Any) -> Datum:
    arrays = {
        "target_tokens": np.array([2, 3, 4], np.int64),
        "weights": np.ones(3, np.float32),
        **inputs,
    }
    arrays.pop(drop, None)
    return Datum(np.array(tokens, np.int32), arrays)


def batch(*data: Datum, **changes: Any) -> ForwardBackward:
    return replace(ForwardBackward(data, "cross_entropy"), **changes)


def sampled(**inputs: Any) -> Datum:
    """What the losses of reinforcement learning take."""
    given = {"logprobs": f32(-1, -2, -3), "advantages": f32(1, 0, -1), **inputs}
    return datum(drop="weights", **given)


def sampled_batch(loss_fn: str = "ppo", config: Any = None, **inputs: Any) -> ForwardBackward:
    return batch(sampled(**inputs), loss_fn=loss_fn, loss_fn_config=config or {})


def f32(*values: float) -> np.ndarray:
    return np.array(values, np.float32)


def i64(*values: int) -> np.ndarray:
    return np.array(values, np.int64)


GOOD = [
    batch(datum()),
    batch(datum(weights=f32(-1.5, 0.0, 1e30))),
    batch(datum(), datum(tokens=[99] * 3, target_tokens=i64(0, 99, 5))),
    batch(datum(target_tokens=np.ones((3, 5), np.int64), weights=np.ones((3, 5), np.float32))),
    sampled_batch(config={"clip_low_threshold": 0.0, "clip_high_threshold": 1e6}),
    sampled_batch("cispo", {"clip_low_threshold": 1.0, "clip_high_threshold": 1}),
    sampled_batch("importance_sampling"),
    sampled_batch("dro", {"beta": 0.0}),
    sampled_batch("gspo", sequence_ratio_mask=f32(0, 1, 1)),
    sampled_batch("gspo", sequence_ratio_mask=i64(0, 0, 0)),
    batch(
        datum(
            tokens=[1] * 16,
            target_tokens=np.ones(16, np.int64),
            weights=np.ones(16, np.float32),
        )
    ),
]


@pytest.mark.parametrize("op", GOOD, ids=range(len(GOOD)))
def test_good_batches_pass(op: ForwardBackward):
    check(op)
    check(replace(op, forward_only=True))


@pytest.mark.parametrize("forward_only", [False, True])
def test_the_inputs_of_a_policy_loss_are_needed_in_a_forward_pass_too(forward_only: bool):
    op = batch(datum(drop="weights", logprobs=f32(0, 0, 0)), loss_fn="ppo")

    with pytest.raises(InvalidInputError, match="lacks advantages; 'ppo' needs advantages, logp"):
        check(replace(op, forward_only=forward_only))


def test_only_a_forward_pass_may_leave_weights_out():
    op = batch(datum(), datum(drop="weights"))

    check(replace(op, forward_only=True))
    with pytest.raises(InvalidInputError, match=r"data\[1\].loss_fn_inputs lacks weights; "):
        check(op)


BAD_BATCHES = {
    "an empty batch": (batch(), "at least one datum"),
    "an unknown loss": (
        batch(datum(), loss_fn="dpo"),
        "'dpo'.*supported: cispo, cross_entropy, dro, gspo, importance_sampling, ppo$",
    ),
    "a loss without a public definition": (
        batch(datum(), loss_fn="stable_reinforce"),
        "'stable_reinforce' is not supported; supported: cispo, cross_entropy",
    ),
    "a setting the loss lacks": (
        batch(datum(), loss_fn_config={"beta": 1.0}),
        "'cross_entropy' has no setting 'beta'; its settings: none",
    ),
    "a setting of another loss": (
        sampled_batch("dro", {"clip_low_threshold": 0.8}),
        "'dro' has no setting 'clip_low_threshold'; its settings: beta",
    ),
    "a setting that is NaN": (
        sampled_batch(config={"clip_low_threshold": float("nan")}),
        r"\['clip_low_threshold'\] of 'ppo' is nan; expected a number from 0 to 1$",
    ),
    "a setting that is infinite": (
        sampled_batch("cispo", {"clip_high_threshold": float("inf")}),
        r"\['clip_high_threshold'\] of 'cispo' is inf; expected a number from 1 to 1e\+06",
    ),
    "a setting that is a text": (
        sampled_batch(config={"clip_low_threshold": "low"}),
        r"\['clip_low_threshold'\] of 'ppo' is 'low'",
    ),
    "a threshold meant as a distance from 1": (
        sampled_batch("gspo", {"clip_high_threshold": 0.2}, sequence_ratio_mask=f32(1, 1, 1)),
        r"\['clip_high_threshold'\] of 'gspo' is 0.2; expected a number from 1",
    ),
    "a negative beta": (sampled_batch("dro", {"beta": -0.1}), r"\['beta'\] of 'dro' is -0.1"),
    "a mask that is a weight": (
        sampled_batch("gspo", sequence_ratio_mask=f32(0, 1, 0.5)),
        r"\['sequence_ratio_mask'\]\[2\] is 0.5; expected 0 or 1",
    ),
    "soft targets for a loss of sampled tokens": (
        sampled_batch(
            target_tokens=np.ones((3, 2), np.int64),
            logprobs=np.ones((3, 2), np.float32),
            advantages=np.ones((3, 2), np.float32),
        ),
        r"has shape \[3, 2\]; 'ppo' is defined for one target per position, shape \[3\]",
    ),
    "thresholds per token, which have no public definition": (
        sampled_batch(clip_low_threshold=f32(0, 0, 0)),
        "has clip_low_threshold, which 'ppo' does not use; it takes advantages, logprobs, target",
    ),
    "no tokens": (
        batch(datum(tokens=[], target_tokens=i64(), weights=f32())),
        r"data\[0\].model_input has shape \[0\]",
    ),
    "too many tokens": (
        batch(datum(tokens=[1] * 17)),
        "model_input has 17 tokens; the model's context holds 16",
    ),
    "a token above the vocabulary": (
        batch(datum(), datum(tokens=[1, 2, 100])),
        r"data\[1\].model_input\[2\] is token id 100; .* 0 to 99",
    ),
    "a negative token": (batch(datum(tokens=[-1, 2, 3])), r"model_input\[0\] is token id -1"),
    "a target above the vocabulary": (
        batch(datum(target_tokens=i64(1, 2, 101))),
        r"data\[0\].loss_fn_inputs\['target_tokens'\]\[2\] is token id 101",
    ),
    "the mask token of other libraries": (
        batch(datum(target_tokens=i64(-100, 2, 3))),
        r"\['target_tokens'\]\[0\] is token id -100.*weight 0",
    ),
    "a target in a matrix": (
        batch(datum(target_tokens=i64(1, 2, 3, 4, 5, 600).reshape(3, 2))),
        r"\['target_tokens'\]\[2, 1\] is token id 600",
    ),
    "targets of another length": (
        batch(datum(target_tokens=i64(1, 2))),
        r"\['target_tokens'\] has shape \[2\]; expected \[3\] or \[3, K\]",
    ),
    "targets with three dimensions": (
        batch(datum(target_tokens=np.ones((3, 1, 1), np.int64))),
        r"shape \[3, 1, 1\]",
    ),
    "targets with no columns": (
        batch(datum(target_tokens=np.ones((3, 0), np.int64))),
        r"shape \[3, 0\]",
    ),
    "targets that are no integers": (
        batch(datum(target_tokens=f32(1, 2, 3))),
        "dtype float32; expected int64",
    ),
    "weights of another length": (
        batch(datum(weights=f32(1, 1))),
        r"\['weights'\] has shape \[2\]; expected \[3\]",
    ),
    "weights that are NaN": (
        batch(datum(weights=f32(1, np.nan, 1))),
        r"data\[0\].loss_fn_inputs\['weights'\]\[1\] is nan",
    ),
    "weights that are infinite": (
        batch(datum(weights=f32(1, 1, np.inf))),
        r"\['weights'\]\[2\] is inf",
    ),
    "weights that float32 cannot hold": (
        batch(datum(weights=np.array([1, 1e39, 1]))),
        r"\['weights'\]\[1\] is 1e\+39; expected a finite float32",
    ),
    "weights missing": (
        batch(datum(drop="weights")),
        "lacks weights; 'cross_entropy' needs target_tokens, weights",
    ),
    "targets missing": (batch(datum(drop="target_tokens")), "lacks target_tokens"),
    "an input of another loss": (
        batch(datum(advantages=f32(1, 1, 1))),
        "has advantages, which 'cross_entropy' does not use; it takes target_tokens, weights",
    ),
}


@pytest.mark.parametrize(("op", "words"), BAD_BATCHES.values(), ids=BAD_BATCHES)
def test_bad_batches_are_told_what_is_wrong(op: ForwardBackward, words: str):
    with pytest.raises(InvalidInputError, match=words):
        check(op)


GOOD_ADAM = [
    AdamParams(),
    AdamParams(learning_rate=0, beta1=0, beta2=0, eps=0, weight_decay=1, grad_clip_norm=1),
    AdamParams(learning_rate=999_999.0, eps=1e-50, grad_clip_norm=1e30),
]


@pytest.mark.parametrize("adam", GOOD_ADAM, ids=range(len(GOOD_ADAM)))
def test_what_adamw_allows_passes(adam: AdamParams):
    check_adam(adam)


BAD_ADAM = [
    ("learning_rate", -1e-4),
    ("learning_rate", 1e6),
    ("learning_rate", float("nan")),
    ("learning_rate", float("inf")),
    ("beta1", 1.0),
    ("beta1", -0.1),
    ("beta2", 1.5),
    ("beta2", float("nan")),
    ("eps", -1e-9),
    ("eps", 1e6),
    ("eps", float("inf")),
    ("weight_decay", -1.0),
    ("weight_decay", 1e6),
    ("grad_clip_norm", -1.0),
    ("grad_clip_norm", float("nan")),
    ("grad_clip_norm", float("inf")),
]


@pytest.mark.parametrize(("name", "value"), BAD_ADAM)
def test_adam_parameters_out_of_range_are_named(name: str, value: float):
    with pytest.raises(InvalidInputError, match=re.escape(f"{name} {value!r} is out of range: 0 ")):
        check_adam(replace(AdamParams(), **{name: value}))
