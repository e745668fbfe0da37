"""Bad input is refused with the offending value and what is allowed."""

from __future__ import annotations

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
    SaveState,
)
from tinsmith.domain.records import ServedModel
from tinsmith.nn.losses import LOSSES
from tinsmith.service.seeds import check_seed, seed_of
from tinsmith.service.training_checks import (
    MAX_METADATA_BYTES,
    check_lora,
    check_metadata,
    check_training_op,
)

MODEL = ServedModel("org/tiny", "unused", vocab_size=100, max_context=16)


def check(op: Any) -> None:
    check_training_op(op, MODEL, LOSSES)


def batch(token: int) -> ForwardBackward:
    inputs = {"target_tokens": np.array([2], np.int64), "weights": np.ones(1, np.float32)}
    return ForwardBackward((Datum(np.array([token], np.int32), inputs),), "cross_entropy")


GOOD = [
    batch(99),
    OptimStep(AdamParams()),
    SaveState(CheckpointAddress("r", CheckpointKind.TRAINING, "a"), ttl_s=3600),
    LoadState(CheckpointAddress("r", CheckpointKind.TRAINING, "a"), True),
]


@pytest.mark.parametrize("op", GOOD, ids=range(len(GOOD)))
def test_good_training_ops_pass(op: Any):
    check(op)


def test_batches_and_steps_are_held_against_the_rules():
    with pytest.raises(InvalidInputError, match=r"data\[0\].model_input\[0\] is token id 100"):
        check(batch(100))
    with pytest.raises(InvalidInputError, match=r"beta1 .* is out of range"):
        check(OptimStep(AdamParams(beta1=1.5)))


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
