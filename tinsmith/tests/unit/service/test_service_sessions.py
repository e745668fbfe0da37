from __future__ import annotations

import time
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from tinsmith.config import Service as Settings
from tinsmith.domain.errors import InvalidInputError, NotFoundError
from tinsmith.domain.ops import Release

MODEL = "org/tiny"


def test_a_session_belongs_to_who_made_it(house):
    made = house.service.sessions.create(
        house.anna, tags=("a",), user_metadata={"k": "v"}, display_name="d"
    )

    assert house.service.sessions.get(house.anna, made.session_id) == made
    assert house.service.sessions.list(house.anna, limit=9, offset=0) == [made]
    assert house.service.sessions.list(house.boris, limit=9, offset=0) == []
    for use in ("get", "heartbeat", "run_ids", "sampler_ids", "live"):
        with pytest.raises(NotFoundError):
            getattr(house.service.sessions, use)(house.boris, made.session_id)
    with pytest.raises(NotFoundError):
        house.service.sessions.finish(house.boris, made.session_id, "success")


def test_a_repeated_opening_finds_the_first_session(house):
    first = house.service.sessions.create(house.anna, idempotency_key="k")

    assert house.service.sessions.create(house.anna, idempotency_key="k") == first


def test_a_heartbeat_is_noted_until_the_session_ends(house):
    session_id = house.session().session_id
    before = datetime.now(UTC)

    house.service.sessions.heartbeat(house.anna, session_id)
    assert house.service.sessions.get(house.anna, session_id).last_heard_at >= before

    house.service.sessions.finish(house.anna, session_id, "success")
    with pytest.raises(NotFoundError, match="has ended"):
        house.service.sessions.heartbeat(house.anna, session_id)
    with pytest.raises(InvalidInputError, match="ended at"):
        house.service.sessions.live(house.anna, session_id)


def test_finishing_releases_the_runs_and_rings_once_per_model(house):
    session_id = house.session().session_id
    runs = [house.run(session_id=session_id, number=n) for n in range(2)]
    house.rung.clear()

    house.service.sessions.finish(house.anna, session_id, "interrupted")
    house.service.sessions.finish(house.anna, session_id, "success")

    records = house.ledger.pending(MODEL)
    assert [(r.scope, type(r.op)) for r in records] == [(run_id, Release) for run_id in runs]
    assert house.rung == [MODEL]


def test_ending_a_session_rings_only_for_models_that_are_served(house):
    run_id = house.run()
    later = house.build(house.service.models.get("org/other"))
    house.rung.clear()

    later.sessions.finish(house.anna, run_id.rpartition(":train:")[0], "success")

    assert house.rung == []
    later.close()


def test_a_silent_session_is_ended_by_the_sweep(house):
    hasty = house.build(config=replace(house.config, service=Settings(session_silence_s=0.2)))
    quiet = house.run()
    time.sleep(0.25)
    beating = house.session().session_id

    swept = hasty.retention.sweep()

    assert swept.sessions_ended == 1
    run = house.service.runs.get(house.anna, quiet)
    assert run.is_ended
    assert house.service.sessions.get(house.anna, run.session_id).ended_at is not None
    assert house.service.sessions.get(house.anna, beating).ended_at is None
    hasty.close()


def test_a_server_that_just_started_ends_nobody(house):
    house.session()
    time.sleep(0.25)
    fresh = house.build(config=replace(house.config, service=Settings(session_silence_s=0.2)))

    assert fresh.retention.sweep().sessions_ended == 0
    fresh.close()


def test_the_sweep_deletes_expired_checkpoints_and_unnamed_ones_of_ended_sessions(house):
    run_id = house.run()
    past = datetime.now(UTC) - timedelta(seconds=1)
    kept = house.saved(run_id, "kept", 1)
    expired = house.saved(run_id, "expired", 2, expires_at=past)
    unnamed = house.execute_save(
        house.service.runs.save_for_sampler(
            house.anna, run_id, 3, name=None, sampling_session_seq_id=0
        )
    )

    assert house.service.retention.sweep().checkpoints_deleted == 1
    house.service.sessions.finish(house.anna, run_id.rpartition(":train:")[0], "success")
    assert house.service.retention.sweep().checkpoints_deleted == 1

    assert house.store.files(kept)
    for gone in (expired, unnamed):
        assert house.ledger.checkpoint(gone) is None
        with pytest.raises(NotFoundError):
            house.store.files(gone)


def test_a_model_that_is_not_served_names_those_that_are(house):
    assert [model.name for model in house.service.models.list()] == ["org/tiny", "org/other"]
    with pytest.raises(InvalidInputError, match="served: org/tiny, org/other"):
        house.service.models.get("gpt")
