"""Bad input is refused with the offending value and what is allowed."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from tinsmith.domain.addresses import CheckpointAddress, CheckpointKind
from tinsmith.domain.datum import Datum
from tinsmith.domain.errors import InvalidInputError
from tinsmith.domain.ops import (
    AdamParams,
    ForwardBackward,
    LoadState,
    LoraConfig,
    OptimStep,
    Release,
    Sample,
    SamplingParams,
    SaveState,
)
from tinsmith.domain.records import ServedModel
from tinsmith.service.sampling_checks import check_sample
from tinsmith.service.seeds import check_seed, seed_of
from tinsmith.service.training_checks import (
    MAX_METADATA_BYTES,
    LossRule,
    check_lora,
    check_metadata,
    check_training_op,
)

MODEL = ServedModel("org/tiny", "unused", vocab_size=100, max_context=16)
RULES = {
    "cross_entropy": LossRule("cross_entropy", frozenset({"weights"})),
    "ppo": LossRule("ppo", frozenset({"logprobs"}), frozenset({"clip_low_threshold"})),
}


def check(op: Any) -> None:
    check_training_op(op, MODEL, RULES)


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


def f32(*values: float) -> np.ndarray:
    return np.array(values, np.float32)


def i64(*values: int) -> np.ndarray:
    return np.array(values, np.int64)


GOOD = [
    batch(datum()),
    batch(datum(weights=f32(-1.5, 0.0, 1e30))),
    batch(datum(), datum(tokens=[99] * 3, target_tokens=i64(0, 99, 5))),
    batch(
        datum(target_tokens=np.ones((3, 5), np.int64), weights=np.ones((3, 5), np.float32)),
        forward_only=True,
    ),
    batch(
        datum(drop="weights", logprobs=f32(-1, -2, -3)),
        loss_fn="ppo",
        loss_fn_config={"clip_low_threshold": 0.8},
    ),
    batch(
        datum(
            tokens=[1] * 16,
            target_tokens=np.ones(16, np.int64),
            weights=np.ones(16, np.float32),
        )
    ),
    OptimStep(AdamParams()),
    OptimStep(AdamParams(learning_rate=0, beta1=0, beta2=0, weight_decay=1, grad_clip_norm=1)),
    SaveState(CheckpointAddress("r", CheckpointKind.TRAINING, "a"), ttl_s=3600),
    LoadState(CheckpointAddress("r", CheckpointKind.TRAINING, "a"), True),
]


@pytest.mark.parametrize("op", GOOD, ids=range(len(GOOD)))
def test_good_training_ops_pass(op: Any):
    check(op)


BAD_BATCHES = {
    "an empty batch": (batch(), "at least one datum"),
    "an unknown loss": (batch(datum(), loss_fn="dpo"), "'dpo'.*supported: cross_entropy, ppo"),
    "a setting the loss lacks": (
        batch(datum(), loss_fn_config={"beta": 1.0}),
        "'beta'; it may set: nothing",
    ),
    "a setting that is not finite": (
        batch(datum(), loss_fn="ppo", loss_fn_config={"clip_low_threshold": float("nan")}),
        "clip_low_threshold is nan",
    ),
    "a setting that is a text": (
        batch(datum(), loss_fn="ppo", loss_fn_config={"clip_low_threshold": "low"}),
        "clip_low_threshold is 'low'",
    ),
    "no tokens": (
        batch(datum(tokens=[], target_tokens=i64(), weights=f32())),
        "datum 0: model_input has no tokens",
    ),
    "too many tokens": (batch(datum(tokens=[1] * 17)), "17 tokens; org/tiny takes at most 16"),
    "a token above the vocabulary": (
        batch(datum(), datum(tokens=[1, 2, 100])),
        r"datum 1: model_input\[2\] is 100: .* 0 to 99",
    ),
    "a negative token": (batch(datum(tokens=[-1, 2, 3])), r"model_input\[0\] is -1"),
    "a target above the vocabulary": (
        batch(datum(target_tokens=i64(1, 2, 101))),
        r"target_tokens\[2\] is 101",
    ),
    "the mask token of other libraries": (
        batch(datum(target_tokens=i64(-100, 2, 3))),
        r"target_tokens\[0\] is -100.*weight 0",
    ),
    "a target in a matrix": (
        batch(datum(target_tokens=i64(1, 2, 3, 4, 5, 600).reshape(3, 2))),
        r"target_tokens\[2, 1\] is 600",
    ),
    "targets of another length": (
        batch(datum(target_tokens=i64(1, 2))),
        r"target_tokens has shape \[2\]; model_input has 3",
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
        "target_tokens is float32",
    ),
    "weights of another length": (
        batch(datum(weights=f32(1, 1))),
        r"weights has shape \[2\]; target_tokens has \[3\]",
    ),
    "weights that are NaN": (batch(datum(weights=f32(1, np.nan, 1))), r"weights\[1\] is nan"),
    "weights that are infinite": (batch(datum(weights=f32(1, 1, np.inf))), r"weights\[2\] is inf"),
    "weights missing": (
        batch(datum(drop="weights")),
        "lacks weights, which cross_entropy needs",
    ),
    "targets missing": (batch(datum(drop="target_tokens")), "lacks target_tokens"),
    "an input of another loss": (
        batch(datum(advantages=f32(1, 1, 1))),
        "has advantages, which cross_entropy does not use; it takes target_tokens, weights",
    ),
}


@pytest.mark.parametrize(("op", "words"), BAD_BATCHES.values(), ids=BAD_BATCHES)
def test_bad_batches_are_told_what_is_wrong(op: ForwardBackward, words: str):
    with pytest.raises(InvalidInputError, match=words):
        check(op)


BAD_ADAM = [
    ("learning_rate", -1e-4),
    ("learning_rate", float("nan")),
    ("learning_rate", float("inf")),
    ("beta1", 1.0),
    ("beta1", -0.1),
    ("beta2", 1.5),
    ("beta2", float("nan")),
    ("eps", 0.0),
    ("eps", 1e-50),
    ("eps", float("inf")),
    ("weight_decay", -1.0),
    ("grad_clip_norm", -1.0),
    ("grad_clip_norm", float("nan")),
]


@pytest.mark.parametrize(("name", "value"), BAD_ADAM)
def test_adam_parameters_out_of_range_are_named(name: str, value: float):
    with pytest.raises(InvalidInputError, match=f"{name} {value!r} is out of range"):
        check(OptimStep(replace(AdamParams(), **{name: value})))


@pytest.mark.parametrize("rank", [0, -1, 257])
def test_a_rank_out_of_range_names_the_limit(rank: int):
    with pytest.raises(InvalidInputError, match=f"rank {rank} .* 1 to 256"):
        check_lora(LoraConfig(rank, 0), max_rank=256)


def test_a_run_must_train_something():
    with pytest.raises(InvalidInputError, match="set at least one"):
        check_lora(LoraConfig(8, 0, False, False, False), max_rank=256)


@pytest.mark.parametrize("ttl_s", [0, -5, 3599, 10**10])
def test_a_time_to_live_out_of_range_is_refused(ttl_s: int):
    with pytest.raises(InvalidInputError, match=f"ttl_seconds {ttl_s} .* 3600"):
        check(SaveState(CheckpointAddress("r", CheckpointKind.TRAINING, "a"), ttl_s=ttl_s))


def test_metadata_is_text_of_bounded_size():
    check_metadata({"k": "v" * 1000})
    with pytest.raises(InvalidInputError, match=r"user_metadata\['k'\] is 3"):
        check_metadata({"k": 3})  # type: ignore[dict-item]
    with pytest.raises(InvalidInputError, match=f"at most {MAX_METADATA_BYTES}"):
        check_metadata({"k": "v" * MAX_METADATA_BYTES})


def test_only_training_checkpoints_can_be_trained_from():
    source = CheckpointAddress("r", CheckpointKind.SAMPLER, "a")
    with pytest.raises(InvalidInputError, match=f"{source} is no training checkpoint"):
        check(LoadState(source, False))


def test_what_only_the_service_logs_is_not_submitted():
    with pytest.raises(InvalidInputError, match="Release"):
        check(Release())


def sample(prompt: Any = (1, 2), **changes: Any) -> Sample:
    params = {k: changes.pop(k) for k in list(changes) if k in SamplingParams.__slots__}
    return Sample(np.array(prompt, np.int32), SamplingParams(**params), **changes)


GOOD_SAMPLES = [
    sample(),
    sample([1] * 16, max_tokens=1),
    sample(max_tokens=10**6, temperature=0.0, top_k=1, top_p=1e-9),
    sample(stop_tokens=(0, 99), stop_strings=("\n",), num_samples=8),
    sample(prompt_logprobs=True, prompt_logprobs_last_n=1, topk_prompt_logprobs=20),
]


@pytest.mark.parametrize("op", GOOD_SAMPLES, ids=range(len(GOOD_SAMPLES)))
def test_good_samples_pass(op: Sample):
    check_sample(op, MODEL, max_num_samples=8)


BAD_SAMPLES = {
    "an empty prompt": (sample([]), "prompt is empty"),
    "a long prompt": (sample([1] * 17), "17 tokens; org/tiny takes at most 16"),
    "an unknown token": (sample([1, 100]), r"prompt\[1\] is 100"),
    "no sample": (sample(num_samples=0), "num_samples 0 .* 1 to 8"),
    "too many samples": (sample(num_samples=9), "num_samples 9 .* 1 to 8"),
    "no tokens to make": (sample(max_tokens=0), "max_tokens 0"),
    "negative temperature": (sample(temperature=-0.1), "temperature -0.1"),
    "temperature NaN": (sample(temperature=float("nan")), "temperature nan"),
    "temperature infinite": (sample(temperature=float("inf")), "temperature inf"),
    "top_p 0": (sample(top_p=0.0), "top_p 0.0"),
    "top_p above 1": (sample(top_p=1.01), "top_p 1.01"),
    "top_p NaN": (sample(top_p=float("nan")), "top_p nan"),
    "top_k 0": (sample(top_k=0), "top_k 0 .* or -1"),
    "top_k -2": (sample(top_k=-2), "top_k -2"),
    "an empty stop": (sample(stop_strings=("a", "")), "stop string is empty"),
    "an unknown stop": (sample(stop_tokens=(100,)), r"stop\[0\] is 100"),
    "many stops": (sample(stop_strings=tuple("ab" * 40)), "80 stops"),
    "last_n 0": (sample(prompt_logprobs_last_n=0), "prompt_logprobs_last_n 0"),
    "topk negative": (sample(topk_prompt_logprobs=-1), "topk_prompt_logprobs -1 .* 0 to 100"),
    "topk above": (sample(topk_sample_logprobs=101), "topk_sample_logprobs 101 .* 0 to 100"),
}


@pytest.mark.parametrize(("op", "words"), BAD_SAMPLES.values(), ids=BAD_SAMPLES)
def test_bad_samples_are_told_what_is_wrong(op: Sample, words: str):
    with pytest.raises(InvalidInputError, match=words):
        check_sample(op, MODEL, max_num_samples=8)


def test_a_derived_seed_belongs_to_its_place():
    seeds = {seed_of(scope, n) for scope in ("a:train:0", "b:train:0") for n in range(50)}

    assert len(seeds) == 100
    assert seed_of("a:train:0", 3) == seed_of("a:train:0", 3)
    for seed in seeds:
        check_seed(seed)


@pytest.mark.parametrize("seed", [-1, 2**63])
def test_a_seed_out_of_range_is_refused(seed: int):
    with pytest.raises(InvalidInputError, match=f"seed {seed} "):
        check_seed(seed)
