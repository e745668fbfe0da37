from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import UTC, datetime

import numpy as np
import pytest
from tinsmith.domain.datum import Datum
from tinsmith.domain.errors import (
    BusyError,
    InvalidInputError,
    NotFoundError,
    SequenceReusedError,
)
from tinsmith.domain.ops import (
    AdamParams,
    CreateRun,
    ForwardBackward,
    OptimStep,
    Release,
    Sample,
    SamplingParams,
)
from tinsmith.domain.outcomes import (
    Failed,
    FailureCategory,
    ForwardBackwardDone,
    RunCreated,
    StepDone,
    Succeeded,
)
from tinsmith.domain.records import Run
from tinsmith.ledger.entries import Backlog, RunEndedError
from tinsmith.ledger.ledger import Ledger
from tinsmith.ledger.schema import RELEASE_SEQ_ID

MODEL = "org/tiny"
STEP = OptimStep(AdamParams())
BAD = Failed(FailureCategory.USER, "datum 0: no tokens")


def batch(*, forward_only: bool = False, num_tokens: int = 2) -> ForwardBackward:
    datum = Datum(
        np.arange(num_tokens, dtype=np.int32),
        {
            "target_tokens": np.ones(num_tokens, np.int64),
            "weights": np.ones(num_tokens, np.float32),
        },
    )
    return ForwardBackward((datum,), "cross_entropy", forward_only=forward_only)


def sample(token: int = 1) -> Sample:
    return Sample(np.array([token], np.int32), SamplingParams(seed=5))


def append(ledger: Ledger, run: Run, seq_id: int, op=STEP, backlog: Backlog | None = None) -> str:
    return ledger.append(
        run.run_id, seq_id, op, owner=run.owner, base_model=run.base_model, backlog=backlog
    )


def append_failed(ledger: Ledger, run: Run, seq_id: int, kind: str, failure: Failed = BAD) -> str:
    return ledger.append_failed(
        run.run_id, seq_id, kind, failure, owner=run.owner, base_model=run.base_model
    )


def test_an_op_comes_back_as_it_was_appended(ledger: Ledger, run: Run):
    request_id = append(ledger, run, 1, batch())

    record = ledger.pending(MODEL)[-1]

    assert request_id == f"{run.run_id}#1"
    assert (record.request_id, record.scope, record.seq_id) == (request_id, run.run_id, 1)
    assert record.owner == "anna"
    assert isinstance(record.op, ForwardBackward)
    assert record.op.data[0].tokens.tolist() == [0, 1]
    assert abs((datetime.now(UTC) - record.appended_at).total_seconds()) < 60


def test_a_retried_append_returns_the_first_request(ledger: Ledger, run: Run):
    assert append(ledger, run, 1) == append(ledger, run, 1)
    assert [record.seq_id for record in ledger.pending(MODEL)] == [0, 1]


def test_a_retry_from_many_threads_makes_one_op(ledger: Ledger, run: Run):
    barrier = threading.Barrier(16)

    def attempt(_: int) -> str:
        barrier.wait()
        return append(ledger, run, 1, batch())

    with ThreadPoolExecutor(16) as pool:
        answers = set(pool.map(attempt, range(16)))

    assert answers == {f"{run.run_id}#1"}
    assert [record.seq_id for record in ledger.pending(MODEL)] == [0, 1]


def test_a_retry_stays_good_after_later_ops_and_after_the_outcome(ledger: Ledger, run: Run):
    first = append(ledger, run, 1)
    append(ledger, run, 2)
    epoch = ledger.acquire_lease(MODEL, "engine")
    ledger.settle(first, Succeeded(StepDone({})), lease_epoch=epoch)

    assert append(ledger, run, 1) == first


def test_a_place_taken_by_different_work_is_named_in_the_error(ledger: Ledger, run: Run):
    append(ledger, run, 1)

    with pytest.raises(SequenceReusedError, match=r"seq_id 1 of .* holds a optim_step"):
        append(ledger, run, 1, OptimStep(AdamParams(learning_rate=0.5)))
    with pytest.raises(SequenceReusedError, match="this forward_backward differs"):
        append(ledger, run, 1, batch())


def test_gaps_are_normal_and_lower_numbers_are_refused(ledger: Ledger, run: Run):
    append(ledger, run, 3)
    append(ledger, run, 7)

    with pytest.raises(InvalidInputError, match=r"seq_id 5 .* comes too late: 7"):
        append(ledger, run, 5)
    assert [record.seq_id for record in ledger.pending(MODEL)] == [0, 3, 7]
    assert ledger.run_last_seq(run.run_id) == 7


@pytest.mark.parametrize("seq_id", [-1, 0, RELEASE_SEQ_ID, 2**70])
def test_a_training_number_out_of_range_is_refused(ledger: Ledger, run: Run, seq_id: int):
    with pytest.raises(InvalidInputError, match="out of range"):
        append(ledger, run, seq_id)


def test_samples_are_numbered_freely(ledger: Ledger):
    numbers = [191733668000000000, 0, 2**63 - 1, 7]
    for number in numbers:
        ledger.append("s:sample:0", number, sample(), owner="anna", base_model=MODEL)

    assert [record.seq_id for record in ledger.pending(MODEL)] == numbers
    with pytest.raises(SequenceReusedError):
        ledger.append("s:sample:0", 7, sample(2), owner="anna", base_model=MODEL)
    with pytest.raises(InvalidInputError, match="out of range"):
        ledger.append("s:sample:0", 2**63, sample(), owner="anna", base_model=MODEL)


def test_an_op_needs_its_run(ledger: Ledger):
    with pytest.raises(NotFoundError, match="no-run"):
        ledger.append("no-run", 1, STEP, owner="anna", base_model=MODEL)


def test_a_repeated_creation_finds_the_run_and_a_different_one_does_not(ledger: Ledger, run: Run):
    assert ledger.create_run(run, CreateRun(MODEL, run.lora)) == f"{run.run_id}#0"
    with pytest.raises(SequenceReusedError):
        ledger.create_run(run, CreateRun(MODEL, replace(run.lora, rank=9)))
    assert ledger.run(run.run_id) == run


def test_a_run_needs_a_session_that_lasts(ledger: Ledger, run: Run):
    orphan = replace(run, session_id="nobody", run_id="nobody:train:0")
    late = replace(run, run_id=f"{run.session_id}:train:1")
    ledger.end_session(run.session_id, "success")

    with pytest.raises(NotFoundError, match="nobody"):
        ledger.create_run(orphan, CreateRun(MODEL, run.lora))
    with pytest.raises(InvalidInputError, match="has ended"):
        ledger.create_run(late, CreateRun(MODEL, run.lora))
    assert ledger.create_run(run, CreateRun(MODEL, run.lora)) == f"{run.run_id}#0"


def test_pending_gives_unsettled_ops_in_order_of_arrival(
    ledger: Ledger, new_run: Callable[..., Run]
):
    one, two = new_run(), new_run("boris")
    append(ledger, one, 1)
    append(ledger, two, 1)
    append(ledger, one, 2)
    epoch = ledger.acquire_lease(MODEL, "engine")
    ledger.settle(f"{one.run_id}#1", Succeeded(StepDone({})), lease_epoch=epoch)

    records = ledger.pending(MODEL)

    wanted = [f"{one.run_id}#0", f"{two.run_id}#0", f"{two.run_id}#1", f"{one.run_id}#2"]
    assert [record.request_id for record in records] == wanted
    assert [r.request_id for r in ledger.pending(MODEL, records[1].row)] == wanted[2:]
    assert ledger.pending("org/other") == []


def test_pending_can_be_read_in_portions_of_bytes(ledger: Ledger, run: Run):
    for seq_id in range(1, 6):
        append(ledger, run, seq_id, batch(num_tokens=1000))

    seen, last = [], 0
    while portion := ledger.pending(MODEL, last, max_bytes=40_000):
        assert len(portion) <= 3
        seen += [record.seq_id for record in portion]
        last = portion[-1].row

    assert seen == [0, 1, 2, 3, 4, 5]


def test_a_bad_op_is_settled_as_it_is_logged(ledger: Ledger, run: Run):
    request_id = append_failed(ledger, run, 1, "forward_backward")

    status = ledger.op_status(request_id)

    assert status is not None
    assert (status.owner, status.kind, status.outcome) == ("anna", "forward_backward", BAD)
    assert [record.seq_id for record in ledger.pending(MODEL)] == [0]
    assert append(ledger, run, 2) == f"{run.run_id}#2"


def test_a_repeated_bad_op_finds_its_first_place(ledger: Ledger, run: Run):
    accepted = append(ledger, run, 1)
    refused = append_failed(ledger, run, 2, "forward_backward")
    other_words = Failed(FailureCategory.USER, "meanwhile it is bad for another reason")

    assert append_failed(ledger, run, 2, "forward_backward", other_words) == refused
    assert append_failed(ledger, run, 1, "optim_step", other_words) == accepted
    assert ledger.outcomes([accepted, refused]) == {refused: BAD}
    with pytest.raises(SequenceReusedError):
        append(ledger, run, 2, batch())
    with pytest.raises(SequenceReusedError):
        append_failed(ledger, run, 1, "save_state")
    append(ledger, run, 4)
    with pytest.raises(InvalidInputError, match="too late"):
        append_failed(ledger, run, 3, "forward_backward")


def test_the_window_of_a_step_knows_what_failed_in_it(ledger: Ledger, run: Run):
    epoch = ledger.acquire_lease(MODEL, "engine")
    server = Failed(FailureCategory.SERVER, "out of memory")
    append_failed(ledger, run, 1, "forward_backward")
    append(ledger, run, 2)
    append_failed(ledger, run, 3, "forward")
    append_failed(ledger, run, 4, "forward_backward")
    ledger.settle(append(ledger, run, 5, batch()), server, lease_epoch=epoch)
    ledger.settle(
        append(ledger, run, 6, batch()),
        Succeeded(ForwardBackwardDone((), {"loss:sum": 0.0})),
        lease_epoch=epoch,
    )
    ledger.settle(append(ledger, run, 7, batch(forward_only=True)), server, lease_epoch=epoch)
    append_failed(ledger, run, 8, "load_state")
    append(ledger, run, 9)
    append(ledger, run, 10)

    def in_window_of(step: int) -> list[tuple[int, str]]:
        return [(op.seq_id, op.message) for op in ledger.gradient_window(run.run_id, step).failed]

    assert in_window_of(2) == [(1, BAD.message)]
    assert in_window_of(9) == [(4, BAD.message), (5, server.message)]
    assert in_window_of(10) == []


def test_a_release_stands_behind_everything_and_ends_the_run(ledger: Ledger, run: Run):
    append(ledger, run, 1)

    assert ledger.release_run(run.run_id)
    assert not ledger.release_run(run.run_id)
    assert not ledger.release_run("no-run")

    last = ledger.pending(MODEL)[-1]
    assert isinstance(last.op, Release)
    assert last.seq_id == RELEASE_SEQ_ID
    with pytest.raises(RunEndedError, match="released"):
        append(ledger, run, 2)
    assert append(ledger, run, 1) == f"{run.run_id}#1"
    assert append_failed(ledger, run, 2, "optim_step") == f"{run.run_id}#2"


def test_a_run_whose_creation_failed_takes_nothing_more(ledger: Ledger, run: Run):
    epoch = ledger.acquire_lease(MODEL, "engine")
    ledger.settle(f"{run.run_id}#0", BAD, lease_epoch=epoch)

    with pytest.raises(RunEndedError, match="could not be created"):
        append(ledger, run, 1)


def test_the_backlog_is_bounded_in_all_and_per_owner(ledger: Ledger, new_run: Callable[..., Run]):
    anna, boris = new_run("anna"), new_run("boris")
    bound = Backlog(in_all=4, per_owner=2)
    append(ledger, anna, 1, backlog=bound)

    with pytest.raises(BusyError, match="2 of your requests are waiting"):
        append(ledger, anna, 2, backlog=bound)
    assert append(ledger, anna, 1, backlog=bound) == f"{anna.run_id}#1"  # a repeat is no more work
    append(ledger, boris, 1, backlog=bound)
    with pytest.raises(BusyError, match="4 requests are waiting"):
        ledger.append("s:sample:0", 0, sample(), owner="clara", base_model=MODEL, backlog=bound)

    epoch = ledger.acquire_lease(MODEL, "engine")
    ledger.settle(f"{anna.run_id}#0", Succeeded(RunCreated(anna.run_id)), lease_epoch=epoch)
    ledger.settle(f"{boris.run_id}#0", Succeeded(RunCreated(boris.run_id)), lease_epoch=epoch)
    assert append(ledger, anna, 2, backlog=bound) == f"{anna.run_id}#2"


@pytest.mark.parametrize("text", ["", "#", "run", "run#", "run#-1", "run#x", "#1", f"r#{10**30}"])
def test_what_is_no_request_id_is_not_there(ledger: Ledger, text: str):
    assert ledger.op_status(text) is None
    assert ledger.outcomes([text]) == {}
