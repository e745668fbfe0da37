from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from tinsmith.domain.addresses import CheckpointAddress, CheckpointKind
from tinsmith.domain.errors import SequenceReusedError
from tinsmith.domain.ops import AdamParams, OptimStep, SaveState
from tinsmith.domain.outcomes import Saved, Succeeded
from tinsmith.domain.records import Checkpoint, Run, Sampler
from tinsmith.ledger.ledger import Ledger

MODEL = "org/tiny"
SOON = timedelta(seconds=1)


def save(ledger: Ledger, run: Run, seq_id: int, kind=CheckpointKind.TRAINING, **changes):
    address = CheckpointAddress(run.run_id, kind, f"c{seq_id}")
    row = Checkpoint(
        address=address,
        owner=run.owner,
        base_model=MODEL,
        lora=run.lora,
        created_at=datetime.now(UTC),
        size_bytes=1,
        digest="00",
    )
    row = replace(row, **changes)
    request_id = ledger.append(
        run.run_id, seq_id, SaveState(address), owner=run.owner, base_model=MODEL
    )
    epoch = ledger.acquire_lease(MODEL, "engine")
    ledger.settle(request_id, Succeeded(Saved(address)), lease_epoch=epoch, checkpoint=row)
    return row


def test_a_session_is_remembered_as_it_was_given(ledger: Ledger):
    made = ledger.create_session(
        "anna", tags=["a", "b"], user_metadata={"k": "ü"}, display_name="run 1"
    )

    assert ledger.session(made.session_id) == made
    assert (made.tags, made.user_metadata, made.display_name) == (("a", "b"), {"k": "ü"}, "run 1")
    assert made.ended_at is None
    assert ledger.session("nobody") is None


def test_the_same_idempotency_key_finds_the_same_session(ledger: Ledger):
    with ThreadPoolExecutor(8) as pool:
        made = list(
            pool.map(lambda _: ledger.create_session("anna", idempotency_key="k"), range(8))
        )

    assert len({session.session_id for session in made}) == 1
    assert ledger.create_session("boris", idempotency_key="k").session_id != made[0].session_id
    assert ledger.create_session("anna").session_id != ledger.create_session("anna").session_id


def test_sessions_are_listed_newest_first_by_owner_and_page(ledger: Ledger):
    made = [ledger.create_session("anna").session_id for _ in range(3)]
    ledger.create_session("boris")

    def page(limit: int, offset: int = 0) -> list[str]:
        return [s.session_id for s in ledger.sessions("anna", limit=limit, offset=offset)]

    assert page(10) == made[::-1]
    assert page(1, 1) == [made[1]]


def test_a_session_ends_once_with_all_its_runs(ledger: Ledger, new_run: Callable[..., Run]):
    first = new_run()
    second = new_run(session_id=first.session_id, number=1)
    elsewhere = new_run()

    assert ledger.end_session(first.session_id, "success") == [MODEL]
    ended_at = ledger.session(first.session_id)
    assert ledger.end_session(first.session_id, "errored") == []

    assert ledger.session(first.session_id) == ended_at
    assert not ledger.touch_session(first.session_id)
    for run, is_ended in ((first, True), (second, True), (elsewhere, False)):
        found = ledger.run(run.run_id)
        assert found is not None
        assert found.is_ended is is_ended
    assert ledger.run_ids(first.session_id) == [first.run_id, second.run_id]


def test_a_session_is_silent_when_neither_heartbeat_nor_op_was_heard(
    ledger: Ledger, new_run: Callable[..., Run]
):
    quiet, beating, training = new_run(), new_run(), new_run()
    ended = ledger.create_session("anna").session_id
    ledger.end_session(ended, "success")
    before = datetime.now(UTC)
    assert ledger.touch_session(beating.session_id)
    ledger.append(training.run_id, 1, OptimStep(AdamParams()), owner="anna", base_model=MODEL)

    assert [s.session_id for s in ledger.silent_sessions(before)] == [quiet.session_id]


def test_runs_are_listed_by_last_use_with_their_number(ledger: Ledger, new_run):
    first, second = new_run(), new_run()
    new_run("boris")
    ledger.append(first.run_id, 1, OptimStep(AdamParams()), owner="anna", base_model=MODEL)

    page, total = ledger.runs("anna", limit=1)

    assert ([run.run_id for run in page], total) == ([first.run_id], 2)
    rest, _ = ledger.runs("anna", limit=5, offset=1)
    assert rest == [second]


def test_a_corrupted_run_says_so(ledger: Ledger, run: Run):
    ledger.mark_corrupted(run.run_id)

    found = ledger.run(run.run_id)
    assert found is not None
    assert found.is_corrupted


def test_a_sampler_is_made_once(ledger: Ledger, run: Run):
    sampler = Sampler(f"{run.session_id}:sample:0", run.session_id, "anna", MODEL, None)

    assert ledger.create_sampler(sampler) == sampler
    assert ledger.create_sampler(sampler) == sampler
    with pytest.raises(SequenceReusedError, match="seq_id 0"):
        ledger.create_sampler(replace(sampler, base_model="org/other"))
    assert ledger.sampler(sampler.sampler_id) == sampler
    assert ledger.sampler("nobody") is None


def test_checkpoints_are_listed_newest_first(ledger: Ledger, new_run: Callable[..., Run]):
    anna, boris = new_run("anna"), new_run("boris")
    now = datetime.now(UTC)
    rows = [save(ledger, anna, n, created_at=now + n * SOON) for n in (1, 2, 3)]
    theirs = save(ledger, boris, 1)
    save(ledger, anna, 4, is_listed=False)
    save(ledger, anna, 5, expires_at=now - SOON)

    assert ledger.checkpoints("anna") == (rows[::-1], 3)
    assert ledger.checkpoints("anna", limit=1, offset=1) == ([rows[1]], 3)
    assert ledger.checkpoints(run_id=boris.run_id) == ([theirs], 1)
    assert ledger.checkpoints("anna", boris.run_id) == ([], 0)


def test_the_last_checkpoint_is_told_by_kind(ledger: Ledger, run: Run):
    assert ledger.last_checkpoint(run.run_id, CheckpointKind.TRAINING) is None
    save(ledger, run, 1)
    training = save(ledger, run, 2)
    sampler = save(ledger, run, 3, CheckpointKind.SAMPLER)

    assert ledger.last_checkpoint(run.run_id, CheckpointKind.TRAINING) == training
    assert ledger.last_checkpoint(run.run_id, CheckpointKind.SAMPLER) == sampler


def test_a_checkpoint_is_seen_by_its_owner_and_once_public_by_all(ledger: Ledger, run: Run):
    address = save(ledger, run, 1).address

    assert ledger.visible_checkpoint(address, "anna") is not None
    assert ledger.visible_checkpoint(address, "boris") is None
    assert ledger.set_public(address, True)
    assert ledger.visible_checkpoint(address, "boris") is not None
    assert ledger.set_expiry(address, datetime.now(UTC) - SOON)
    assert ledger.visible_checkpoint(address, "anna") is None


def test_expired_and_orphaned_unnamed_checkpoints_are_due(
    ledger: Ledger, new_run: Callable[..., Run]
):
    run, over = new_run(), new_run()
    now = datetime.now(UTC)
    save(ledger, run, 1)
    save(ledger, run, 2, expires_at=now + timedelta(hours=1))
    due = save(ledger, run, 3, expires_at=now - SOON)
    save(ledger, run, 4, is_listed=False)
    save(ledger, over, 1)
    orphan = save(ledger, over, 2, is_listed=False)
    ledger.end_session(over.session_id, "success")

    found = ledger.expired_checkpoints(now)

    assert {c.address for c in found} == {due.address, orphan.address}
    assert ledger.delete_checkpoint(due.address)
    assert not ledger.delete_checkpoint(due.address)
    assert not ledger.set_public(due.address, True)
    assert not ledger.set_expiry(due.address, None)
    assert ledger.checkpoint(due.address) is None
