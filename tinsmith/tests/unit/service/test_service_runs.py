from __future__ import annotations

import re
from dataclasses import replace
from datetime import UTC, datetime

import numpy as np
import pytest
from tinsmith.config import Quotas
from tinsmith.domain.addresses import CheckpointKind
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
    CreateRunFromState,
    ForwardBackward,
    LoadState,
    OptimStep,
    SaveExternal,
    SaveForSampler,
    SaveState,
)
from tinsmith.domain.outcomes import Failed, FailureCategory, Outcome

STEP = OptimStep(AdamParams())
MODEL = "org/tiny"


def batch(*tokens: int) -> ForwardBackward:
    n = len(tokens)
    inputs = {"target_tokens": np.zeros(n, np.int64), "weights": np.ones(n, np.float32)}
    return ForwardBackward((Datum(np.array(tokens, np.int32), inputs),), "cross_entropy")


def why(outcome: Outcome | None) -> str:
    assert isinstance(outcome, Failed)
    assert outcome.category is FailureCategory.USER
    return outcome.message


def test_creating_a_run_logs_it_and_rings(house):
    session = house.session()

    request_id = house.service.runs.create(
        house.anna,
        session.session_id,
        0,
        base_model=MODEL,
        rank=8,
        train_unembed=False,
        user_metadata={"k": "v"},
    )

    run_id = f"{session.session_id}:train:0"
    assert request_id == f"{run_id}#0"
    (record,) = house.ledger.pending(MODEL)
    assert isinstance(record.op, CreateRun)
    run = house.service.runs.get(house.anna, run_id)
    assert record.op.lora == run.lora
    assert (run.lora.rank, run.lora.train_unembed, run.user_metadata) == (8, False, {"k": "v"})
    assert house.rung == [MODEL]
    assert house.service.sessions.run_ids(house.anna, session.session_id) == [run_id]


def test_a_repeated_creation_without_seed_keeps_the_seed_it_got(house):
    session_id = house.session().session_id

    def create(**changes):
        settings = {"base_model": MODEL, "rank": 8, **changes}
        return house.service.runs.create(house.anna, session_id, 0, **settings)

    assert create() == create()
    assert len(house.ledger.pending(MODEL)) == 1
    for change in ({"rank": 9}, {"seed": 5}, {"train_mlp": False}, {"user_metadata": {"a": "b"}}):
        with pytest.raises(SequenceReusedError):
            create(**change)


def test_runs_without_seed_get_different_ones_and_a_given_seed_is_kept(house):
    ids = [house.run(), house.run(), house.run(seed=7)]

    seeds = [house.service.runs.get(house.anna, run_id).lora.seed for run_id in ids]

    assert seeds[0] != seeds[1]
    assert seeds[2] == 7


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"base_model": "org/unknown"}, "'org/unknown' is not served here; served: org/tiny, org"),
        ({"rank": 0}, "rank 0 .* 1 to 256"),
        ({"rank": 257}, "rank 257"),
        ({"seed": -1}, "seed -1"),
        ({"train_attn": False, "train_mlp": False, "train_unembed": False}, "at least one"),
        ({"user_metadata": {"a": 1}}, "user_metadata"),
    ],
)
def test_a_run_that_cannot_be_made_is_refused_at_once(house, change, words):
    session_id = house.session().session_id
    settings = {"base_model": MODEL, "rank": 8, **change}

    with pytest.raises(InvalidInputError, match=words):
        house.service.runs.create(house.anna, session_id, 0, **settings)
    assert house.service.runs.list(house.anna, limit=9, offset=0) == ([], 0)
    assert house.rung == []


def test_a_run_is_made_in_a_live_session_of_its_owner(house):
    session_id = house.session().session_id
    settings = {"base_model": MODEL, "rank": 8}

    with pytest.raises(NotFoundError):
        house.service.runs.create(house.boris, session_id, 0, **settings)
    with pytest.raises(NotFoundError):
        house.service.runs.create(house.anna, "no-session", 0, **settings)
    with pytest.raises(InvalidInputError, match="model_seq_id -1"):
        house.service.runs.create(house.anna, session_id, -1, **settings)
    made = house.service.runs.create(house.anna, session_id, 0, **settings)
    house.service.sessions.finish(house.anna, session_id, "success")
    with pytest.raises(InvalidInputError, match="ended"):
        house.service.runs.create(house.anna, session_id, 1, **settings)
    assert house.service.runs.create(house.anna, session_id, 0, **settings) == made


def test_a_run_from_a_checkpoint_takes_its_settings(house):
    address = house.saved(house.run(rank=6, train_mlp=False))
    session_id = house.session().session_id

    request_id = house.service.runs.create_from_state(
        house.anna, session_id, 3, path=str(address), with_optimizer=True, base_model=MODEL
    )

    run = house.service.runs.get(house.anna, f"{session_id}:train:3")
    assert request_id == f"{run.run_id}#0"
    assert (run.lora.rank, run.lora.train_mlp, run.base_model) == (6, False, MODEL)
    op = house.ledger.pending(MODEL)[-1].op
    assert op == CreateRunFromState(MODEL, address, True)


def test_a_run_from_a_checkpoint_can_be_asked_for_again_when_the_checkpoint_has_gone(house):
    address = house.saved(house.run())
    session_id = house.session().session_id

    def create(with_optimizer: bool = True) -> str:
        return house.service.runs.create_from_state(
            house.anna, session_id, 0, path=str(address), with_optimizer=with_optimizer
        )

    first = create()
    house.service.checkpoints.delete(house.anna, address)

    assert create() == first
    with pytest.raises(SequenceReusedError):
        create(with_optimizer=False)


def test_a_run_starts_only_from_a_training_checkpoint_one_may_read(house):
    run_id = house.run()
    address = house.saved(run_id)
    sampler = house.execute_save(
        house.service.runs.save_for_sampler(house.anna, run_id, 2, name="s")
    )
    mine, theirs = house.session().session_id, house.session(house.boris).session_id

    def create(caller, session_id, path, **more) -> str:
        return house.service.runs.create_from_state(
            caller, session_id, 0, path=str(path), with_optimizer=True, **more
        )

    with pytest.raises(NotFoundError, match=re.escape(str(address))):
        create(house.boris, theirs, address)
    with pytest.raises(NotFoundError):
        create(house.anna, mine, replace(address, name="b"))
    with pytest.raises(InvalidInputError, match="no training checkpoint"):
        create(house.anna, mine, sampler)
    with pytest.raises(InvalidInputError, match="no-address"):
        create(house.anna, mine, "no-address")
    with pytest.raises(InvalidInputError, match="adapter of org/tiny, not of org/other"):
        create(house.anna, mine, address, base_model="org/other")
    house.service.checkpoints.publish(house.anna, address)
    assert create(house.boris, theirs, address)


def test_ops_are_logged_in_order_and_ring(house):
    run_id = house.run()
    house.rung.clear()

    ids = [
        house.service.runs.submit(house.anna, run_id, 1, batch(1, 2)),
        house.service.runs.submit(house.anna, run_id, 2, STEP),
        house.service.runs.submit(house.anna, run_id, 2, STEP),
    ]

    assert ids == [f"{run_id}#1", f"{run_id}#2", f"{run_id}#2"]
    assert [record.seq_id for record in house.ledger.pending(MODEL)] == [1, 2]
    assert house.rung == [MODEL] * 3  # a repeat may mean that the first ring was lost


def test_a_bad_op_keeps_its_place_and_fails_with_the_reason(house):
    run_id = house.run()
    house.rung.clear()

    bad = house.service.runs.submit(house.anna, run_id, 1, batch(1, 100))
    good = house.service.runs.submit(house.anna, run_id, 2, STEP)

    assert "data[0].model_input[1] is token id 100" in why(house.outcome(bad))
    assert [record.request_id for record in house.ledger.pending(MODEL)] == [good]
    assert house.service.runs.submit(house.anna, run_id, 1, batch(1, 100)) == bad
    assert [f.seq_id for f in house.ledger.gradient_window(run_id, 2).failed] == [1]


def test_a_bad_forward_does_not_count_for_the_step(house):
    run_id = house.run()

    house.service.runs.submit(house.anna, run_id, 1, replace(batch(100), forward_only=True))

    assert house.ledger.gradient_window(run_id, 2).failed == ()


def test_what_could_not_be_made_sense_of_is_refused_in_place(house):
    run_id = house.run()

    request_id = house.service.runs.refuse(
        house.anna, run_id, 1, "forward_backward", "images are not supported"
    )

    assert why(house.outcome(request_id)) == "images are not supported"
    with pytest.raises(NotFoundError):
        house.service.runs.refuse(house.boris, run_id, 2, "forward_backward", "no")


def test_a_foreign_run_looks_like_a_missing_one(house):
    run_id = house.run()
    missing = "x:train:0"

    errors = []
    for id_ in (run_id, missing):
        with pytest.raises(NotFoundError) as caught:
            house.service.runs.submit(house.boris, id_, 1, STEP)
        errors.append(str(caught.value).replace(id_, "ID"))
        with pytest.raises(NotFoundError):
            house.service.runs.get(house.boris, id_)
    assert errors[0] == errors[1]
    assert house.service.runs.list(house.boris, limit=9, offset=0) == ([], 0)


def test_saves_build_their_addresses(house):
    run_id = house.run()
    runs = house.service.runs

    runs.save_state(
        house.anna, run_id, 1, name="a", overwrite=True, ttl_s=7200, user_metadata={"k": "v"}
    )
    runs.save_for_sampler(house.anna, run_id, 2, name="b")
    runs.save_external(house.anna, run_id, 3, name="c", ttl_s=3600)
    again = runs.save_external(house.anna, run_id, 3, name="c", ttl_s=3600)

    state, sampler, external = [record.op for record in house.ledger.pending(MODEL)]
    assert isinstance(state, SaveState)
    assert str(state.address) == f"tinker://{run_id}/weights/a"
    assert (state.overwrite, state.ttl_s, state.user_metadata) == (True, 7200, {"k": "v"})
    assert isinstance(sampler, SaveForSampler)
    assert str(sampler.address) == f"tinker://{run_id}/sampler_weights/b"
    assert sampler.sampler_id is None
    assert isinstance(external, SaveExternal)
    assert str(external.address) == f"tinker://{run_id}/external_weights/c"
    assert again == f"{run_id}#3"


def test_a_save_without_name_is_answered_with_a_sampler(house):
    run_id = house.run()
    session_id = run_id.rpartition(":train:")[0]

    request_id = house.service.runs.save_for_sampler(
        house.anna, run_id, 1, name=None, sampling_session_seq_id=5
    )
    address = house.execute_save(request_id)

    sampler = house.service.samplers.get(house.anna, f"{session_id}:sample:5")
    assert sampler.checkpoint == address
    assert house.service.checkpoints.list(house.anna, limit=9, offset=0) == ([], 0)
    assert request_id == house.service.runs.save_for_sampler(
        house.anna, run_id, 1, name=None, sampling_session_seq_id=5
    )


def test_a_save_without_name_needs_a_free_sampler_number(house):
    run_id = house.run()
    session_id = run_id.rpartition(":train:")[0]
    house.service.samplers.create(house.anna, session_id, 0, base_model=MODEL)

    def save(seq_id: int, number: int | None) -> str:
        request_id = house.service.runs.save_for_sampler(
            house.anna, run_id, seq_id, name=None, sampling_session_seq_id=number
        )
        return why(house.outcome(request_id))

    assert "is already a sampler of org/tiny" in save(1, 0)
    assert "got None" in save(2, None)
    assert "got -1" in save(3, -1)


@pytest.mark.parametrize("name", ["", ".", "..", "a/b", "a?b", "a b", "x" * 129, "_unnamed-0"])
def test_a_name_that_would_not_survive_a_url_fails_its_save(house, name: str):
    run_id = house.run()
    runs = house.service.runs

    for seq_id, save in enumerate((runs.save_state, runs.save_for_sampler, runs.save_external), 1):
        request_id = save(house.anna, run_id, seq_id, name=name)
        assert f"checkpoint name {name!r} is not allowed" in why(house.outcome(request_id))
    assert house.ledger.pending(MODEL) == []


def test_loading_is_checked_as_far_as_it_can_be_told_now(house):
    run_id = house.run()
    runs = house.service.runs

    def load(seq_id: int, path: str) -> str:
        return runs.load_state(house.anna, run_id, seq_id, path=path, with_optimizer=True)

    not_saved_yet = load(1, f"tinker://{run_id}/weights/soon")
    assert "not a checkpoint address" in why(house.outcome(load(2, "no-address")))
    assert "no training checkpoint" in why(
        house.outcome(load(3, f"tinker://{run_id}/sampler_weights/a"))
    )
    (record,) = house.ledger.pending(MODEL)
    assert record.request_id == not_saved_yet
    assert isinstance(record.op, LoadState)


def test_a_run_whose_session_is_over_says_how_to_go_on(house):
    bare, saved = house.run(), house.run()
    address = house.saved(saved)
    before = house.service.runs.submit(house.anna, bare, 1, STEP)
    for run_id in (bare, saved):
        session_id = run_id.rpartition(":train:")[0]
        house.service.sessions.finish(house.anna, session_id, "success")

    first = why(house.outcome(house.service.runs.submit(house.anna, bare, 2, STEP)))
    second = why(house.outcome(house.service.runs.submit(house.anna, saved, 2, STEP)))

    assert "session ended" in first
    assert "create a new training client" in first
    assert str(address) in second
    assert house.service.runs.submit(house.anna, bare, 1, STEP) == before
    assert house.outcome(before) is None  # what was accepted in time is still executed


def test_a_run_of_a_model_no_longer_served_says_so(house):
    run_id = house.run()
    tiny = house.service.models.get("org/other")
    later = house.build(tiny)

    request_id = later.runs.submit(house.anna, run_id, 1, STEP)

    assert "'org/tiny' is not served here; served: org/other" in why(house.outcome(request_id))
    later.close()


def test_beyond_the_backlog_intake_asks_to_wait(house):
    run_id = house.run()
    narrow = house.build(config=replace(house.config, quotas=Quotas(queued_ops=1)))

    assert narrow.runs.submit(house.anna, run_id, 1, STEP)
    with pytest.raises(BusyError):
        narrow.runs.submit(house.anna, run_id, 2, STEP)
    bad = narrow.runs.submit(house.anna, run_id, 2, batch(100))  # costs the engine nothing
    assert why(house.outcome(bad))
    narrow.close()


def test_the_last_checkpoints_are_found_by_kind(house):
    run_id = house.run()
    house.saved(run_id, "a", 1)
    newest = house.saved(run_id, "b", 2)
    run = house.service.runs.get(house.anna, run_id)

    training, sampler = house.service.runs.last_checkpoints(run)

    assert training is not None
    assert training.address == newest
    assert training.address.kind is CheckpointKind.TRAINING
    assert sampler is None
    assert training.created_at <= datetime.now(UTC)
