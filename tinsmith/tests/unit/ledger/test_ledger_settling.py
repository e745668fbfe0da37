from __future__ import annotations

import math
from collections.abc import Callable
from datetime import UTC, datetime, timedelta

import numpy as np
import pytest
from tinsmith.domain.addresses import CheckpointAddress, CheckpointKind
from tinsmith.domain.errors import NotFoundError
from tinsmith.domain.ops import AdamParams, OptimStep, Sample, SamplingParams, SaveForSampler
from tinsmith.domain.outcomes import (
    Failed,
    FailureCategory,
    Released,
    RunCreated,
    Sampled,
    SampledSequence,
    Saved,
    StepDone,
    StopReason,
    Succeeded,
)
from tinsmith.domain.records import Checkpoint, Run, Sampler, Snapshot
from tinsmith.ledger.entries import Execution, LeaseLostError, Settlement
from tinsmith.ledger.ledger import Ledger
from tinsmith.ledger.schema import RELEASE_SEQ_ID

MODEL = "org/tiny"
STEP = OptimStep(AdamParams())
DONE = Succeeded(StepDone({"grad_norm:mean": 1.0}))


def append(ledger: Ledger, run: Run, seq_id: int, op=STEP) -> str:
    return ledger.append(run.run_id, seq_id, op, owner=run.owner, base_model=run.base_model)


def checkpoint_of(run: Run, name: str = "a", **changes) -> Checkpoint:
    fields = {
        "address": CheckpointAddress(run.run_id, CheckpointKind.SAMPLER, name),
        "owner": run.owner,
        "base_model": run.base_model,
        "lora": run.lora,
        "created_at": datetime.now(UTC),
        "size_bytes": 12,
        "digest": "ab",
    }
    return Checkpoint(**{**fields, **changes})


def snapshot(run: Run, seq_id: int, file: str) -> Snapshot:
    return Snapshot(run.run_id, seq_id, 1, datetime.now(UTC), 12, file, "ab", {"engine_s": 1.0})


def outcome_of(ledger: Ledger, request_id: str):
    status = ledger.op_status(request_id)
    assert status is not None
    return status.outcome


def test_an_outcome_is_recorded_once(ledger: Ledger, run: Run):
    request_id = append(ledger, run, 1)
    epoch = ledger.acquire_lease(MODEL, "engine")
    late = Failed(FailureCategory.SERVER, "too late")

    assert outcome_of(ledger, request_id) is None
    assert ledger.settle(request_id, DONE, lease_epoch=epoch)
    assert not ledger.settle(request_id, late, lease_epoch=epoch, checkpoint=checkpoint_of(run))

    found = outcome_of(ledger, request_id)
    assert isinstance(found, Succeeded)
    assert found.result == DONE.result
    assert ledger.checkpoint(checkpoint_of(run).address) is None


def test_only_the_newest_lease_can_settle(ledger: Ledger, run: Run):
    request_id = append(ledger, run, 1)
    with pytest.raises(LeaseLostError):
        ledger.settle(request_id, DONE, lease_epoch=0)  # nobody ever took a lease
    old = ledger.acquire_lease(MODEL, "engine 1")
    new = ledger.acquire_lease(MODEL, "engine 2")

    assert ledger.acquire_lease("org/other", "engine") == 1
    assert new == old + 1
    with pytest.raises(LeaseLostError, match=r"its lease was number 1, now it is 2"):
        ledger.settle(request_id, DONE, lease_epoch=old, checkpoint=checkpoint_of(run))
    assert outcome_of(ledger, request_id) is None
    assert ledger.checkpoints() == ([], 0)
    assert ledger.settle(request_id, DONE, lease_epoch=new)


def test_settlements_made_together_stand_or_fall_together(ledger: Ledger, run: Run):
    ids = [append(ledger, run, seq_id) for seq_id in (1, 2, 3)]
    epoch = ledger.acquire_lease(MODEL, "engine")

    with pytest.raises(NotFoundError, match="nothing#1"):
        ledger.settle_many([Settlement(ids[0], DONE, epoch), Settlement("nothing#1", DONE, epoch)])
    assert ledger.outcomes(ids) == {}

    assert ledger.settle_many([Settlement(id_, DONE, epoch) for id_ in ids[:2]]) == ids[:2]
    assert ledger.settle_many([Settlement(id_, DONE, epoch) for id_ in ids]) == ids[2:]
    assert ledger.outcomes(ids).keys() == set(ids)


def test_a_save_makes_its_catalogue_row_with_its_outcome(ledger: Ledger, run: Run):
    row = checkpoint_of(run, user_metadata={"step": "3"})
    request_id = append(ledger, run, 1, SaveForSampler(row.address))
    epoch = ledger.acquire_lease(MODEL, "engine")

    ledger.settle(request_id, Succeeded(Saved(row.address)), lease_epoch=epoch, checkpoint=row)

    assert ledger.checkpoint(row.address) == row


def test_overwriting_replaces_the_whole_row(ledger: Ledger, run: Run):
    epoch = ledger.acquire_lease(MODEL, "engine")
    old = checkpoint_of(run, user_metadata={"step": "1"}, expires_at=datetime.now(UTC))
    new = checkpoint_of(run, size_bytes=99)
    for seq_id, row in ((1, old), (2, new)):
        request_id = append(ledger, run, seq_id, SaveForSampler(row.address))
        ledger.settle(request_id, Succeeded(Saved(row.address)), lease_epoch=epoch, checkpoint=row)

    assert ledger.checkpoint(new.address) == new
    assert ledger.checkpoints() == ([new], 1)


def test_a_save_without_name_makes_its_sampler_when_it_succeeds(ledger: Ledger, run: Run):
    row = checkpoint_of(run, is_listed=False)
    sampler_id = f"{run.session_id}:sample:4"
    request_id = append(ledger, run, 1, SaveForSampler(row.address, sampler_id))
    epoch = ledger.acquire_lease(MODEL, "engine")
    assert ledger.sampler(sampler_id) is None

    ledger.settle(
        request_id, Succeeded(Saved(row.address, sampler_id)), lease_epoch=epoch, checkpoint=row
    )

    assert ledger.sampler(sampler_id) == Sampler(
        sampler_id, run.session_id, "anna", MODEL, row.address
    )
    assert ledger.sampler_ids(run.session_id) == [sampler_id]
    assert ledger.checkpoints() == ([], 0)
    assert ledger.checkpoint(row.address) == row


def test_the_outcomes_asked_for_are_those_that_are_settled(
    ledger: Ledger, new_run: Callable[..., Run]
):
    one, two = new_run(), new_run()
    epoch = ledger.acquire_lease(MODEL, "engine")
    done = [append(ledger, run, seq_id) for run in (one, two) for seq_id in (1, 2)]
    waiting = append(ledger, one, 3)
    ledger.settle_many([Settlement(id_, DONE, epoch) for id_ in done])

    assert ledger.outcomes([*done, waiting, "unknown#1"]).keys() == set(done)
    assert ledger.outcomes([]) == {}


def sampled(ledger: Ledger, epoch: int, seq_id: int, scope: str = "s:sample:0") -> str:
    op = Sample(np.array([1], np.int32), SamplingParams())
    request_id = ledger.append(scope, seq_id, op, owner="anna", base_model=MODEL)
    sequence = SampledSequence(
        np.array([2], np.int32), np.array([-1.0], np.float32), StopReason.STOP
    )
    ledger.settle(request_id, Succeeded(Sampled((sequence,))), lease_epoch=epoch)
    return request_id


def test_old_sample_results_are_swept_and_known_to_be_gone(ledger: Ledger, run: Run):
    epoch = ledger.acquire_lease(MODEL, "engine")
    trained = append(ledger, run, 1)
    ledger.settle(trained, DONE, lease_epoch=epoch)
    old = sampled(ledger, epoch, 1)
    between = datetime.now(UTC)
    new = sampled(ledger, epoch, 2)

    assert ledger.sweep(between) == 1
    status = ledger.op_status(old)
    assert status is not None
    assert (status.outcome, status.is_gone) == (None, True)
    assert outcome_of(ledger, new) is not None
    assert outcome_of(ledger, trained) is not None
    assert [record.seq_id for record in ledger.pending(MODEL)] == [0]
    same = Sample(np.array([1], np.int32), SamplingParams())
    assert ledger.append("s:sample:0", 1, same, owner="anna", base_model=MODEL) == old


def test_samples_of_sessions_long_over_leave_nothing_behind(ledger: Ledger, run: Run):
    epoch = ledger.acquire_lease(MODEL, "engine")
    sampler = Sampler(f"{run.session_id}:sample:0", run.session_id, "anna", MODEL, None)
    ledger.create_sampler(sampler)
    request_id = sampled(ledger, epoch, 1, sampler.sampler_id)
    ledger.end_session(run.session_id, "success")

    ledger.sweep(datetime.now(UTC) - timedelta(hours=1))
    assert outcome_of(ledger, request_id) is not None
    ledger.sweep(datetime.now(UTC) + timedelta(hours=1))
    assert ledger.op_status(request_id) is None


def test_the_history_of_a_released_run_goes_when_its_time_has_come(
    ledger: Ledger, new_run: Callable[..., Run]
):
    run, other = new_run(), new_run()
    epoch = ledger.acquire_lease(MODEL, "engine")
    ledger.settle(f"{run.run_id}#0", Succeeded(RunCreated(run.run_id)), lease_epoch=epoch)
    step = append(ledger, run, 1)
    ledger.settle(step, DONE, lease_epoch=epoch)
    ledger.settle(append(ledger, other, 1), DONE, lease_epoch=epoch)
    ledger.put_snapshot(snapshot(run, 1, "one"), base_model=MODEL, lease_epoch=epoch)
    ledger.put_snapshot(snapshot(other, 1, "two"), base_model=MODEL, lease_epoch=epoch)
    later = datetime.now(UTC) + timedelta(hours=1)

    assert ledger.drop_ended_history(later) == []
    ledger.end_session(run.session_id, "success")
    assert ledger.drop_ended_history(later) == []  # the engine has not let go of it
    ledger.settle(
        f"{run.run_id}#{RELEASE_SEQ_ID}", Succeeded(Released(run.run_id)), lease_epoch=epoch
    )
    assert ledger.drop_ended_history(datetime.now(UTC) - timedelta(hours=1)) == []
    assert ledger.logged_op(run.run_id, 1) is not None

    assert ledger.drop_ended_history(later) == ["one"]
    assert ledger.drop_ended_history(later) == []
    assert ledger.logged_op(run.run_id, 1) is None and ledger.snapshots(run.run_id) == []
    assert ledger.logged_op(other.run_id, 1) is not None
    assert [one.file for one in ledger.snapshots(other.run_id)] == ["two"]
    assert append(ledger, run, 1) == step  # a repeat is still told from different work


def test_how_an_op_was_executed_is_kept_whatever_its_numbers(ledger: Ledger, run: Run):
    request_id = append(ledger, run, 1)
    metrics = {"grad_norm:mean": math.nan, "loss:sum": math.inf, "fine": 0.1}
    how = Execution(0.25, {"dtype": "float32"}, metrics)
    epoch = ledger.acquire_lease(MODEL, "engine")

    ledger.settle_many([Settlement(request_id, DONE, epoch, execution=how)])

    execution = ledger.history(run.run_id, after=0)[0].execution
    assert execution is not None
    assert (execution.engine_s, execution.settings) == (0.25, {"dtype": "float32"})
    assert math.isnan(execution.metrics["grad_norm:mean"])
    assert (execution.metrics["loss:sum"], execution.metrics["fine"]) == (math.inf, 0.1)
    waiting = append(ledger, run, 2)
    ledger.settle(waiting, DONE, lease_epoch=epoch)
    assert ledger.history(run.run_id, after=1)[0].execution is None
